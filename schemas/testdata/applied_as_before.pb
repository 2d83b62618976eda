
node-aP
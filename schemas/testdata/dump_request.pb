
node-a
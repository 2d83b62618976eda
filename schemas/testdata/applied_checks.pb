
node-aH

node-aUAAA

node-aUAAA	e30.e30.x
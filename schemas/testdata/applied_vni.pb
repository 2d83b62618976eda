
node-ab
deltaplane0›B0—¼
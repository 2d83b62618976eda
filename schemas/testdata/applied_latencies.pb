
node-aZð.˜ò

node-ab(ý
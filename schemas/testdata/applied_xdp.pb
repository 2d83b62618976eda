
node-ab"
eth0off	no driver
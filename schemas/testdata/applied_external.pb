
node-ab#
deltaplane0›Bthe port is taken

node-a#
node.node-a	"0123456789abcdef
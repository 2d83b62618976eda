
node-a#
node.node-a	"0123456789abcdef&
cluster	"À²‹ØÀ–±*ÀŸ«08Ç"7
capacitybackends_v1 is fullÀ²‹ØÀ–±"cluster(	*
backends_v1
2À²‹ØÀ–±:kernelB

no_backend
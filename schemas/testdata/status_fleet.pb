*
node-a@HRÀ²‹ØÀ–±XXFbjp	x€˜¢
node-a
mª

no_backend²*
stream_missingAPPLIED is gone2APPLIED
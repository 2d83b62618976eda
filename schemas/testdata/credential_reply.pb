
e30À²‹ØÀ–±no such node
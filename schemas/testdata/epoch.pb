
compiler-0À²‹ØÀ–±
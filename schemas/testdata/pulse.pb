
compiler
compiler-0 (2À²‹ØÀ–±8	B0123456789abcdef
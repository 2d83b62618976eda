:#
shop/cart:80source_range €€€€€ :
shop/cart:80tunnel @
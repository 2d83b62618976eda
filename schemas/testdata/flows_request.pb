
shop/cart-0

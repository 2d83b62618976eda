
M
EndpointSliceshop
cart-x7k2p"$0c9d4f0a-6f4e-4a57-9c2e-6f0f8f2b1a3d*4711Z*50

M
EndpointSliceshop
cart-x7k2p"$0c9d4f0a-6f4e-4a57-9c2e-6f0f8f2b1a3d*4711‚`

10.8.0.0/16Nodes
10.96.0.0/16flag2
192.0.2.1:6443 EndpointSlice default/kubernetes
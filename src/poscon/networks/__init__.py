"""Networks: the U-Net, the heads, and which parameters are the encoder."""

"""Encoders: images [B, 3, H, W] -> feature maps, the last three at strides 8, 16 and 32, every halving rounded up."""

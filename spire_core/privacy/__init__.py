"""Differential privacy: what noise costs and buys, secret noise, and sums of bounded vectors.

accounting  epsilon, delta and noise of Gaussian steps
sampled     the same where steps sample images: the one home of dp-accounting
guarantee   what a new client's images are promised
noise       Gaussian noise and sampling from a secret key
release     noisy sums of clipped vectors
"""

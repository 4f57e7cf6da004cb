"""Privacy as numbers: what noise costs and buys, what messages and models give away.

accounting  epsilon, delta and noise of Gaussian steps
sampled     the same where steps sample images: the one home of dp-accounting
guarantee   what a new client's images are promised
rounds      what pre-training clients are promised
noise       Gaussian noise and sampling from a secret key
release     noisy sums of clipped vectors
leak        embeddings computed from a client's message, and from a sum of messages
membership  attacks on single images: area under the curve, hits at few false alarms
"""

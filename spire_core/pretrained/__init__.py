"""Pre-trained models: diffusion models in folders of the library diffusers, sentence encoders.

folder     what a folder holds, its hash, and why one is refused
networks   its network, and where each class reads conditions
schedule   its noise schedule and prediction type
sentences  a frozen sentence encoder: captions as vectors
"""

"""Pre-trained diffusion models in the folders that the library diffusers writes.

folder    what a folder holds, its hash, and why one is refused
networks  its network, and where each class reads conditions
schedule  its noise schedule and prediction type
"""

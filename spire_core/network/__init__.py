"""The network: a U-Net, and all its weights as one vector."""

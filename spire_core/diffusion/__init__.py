"""The room diffusion."""

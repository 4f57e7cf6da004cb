"""Finished runs: images and new clients."""

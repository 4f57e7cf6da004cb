"""Checkpoints of pre-training: written beside the rounds, read on a resume, copied to a storage."""

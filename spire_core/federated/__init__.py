"""The room federated."""

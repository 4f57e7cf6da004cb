"""The room network."""

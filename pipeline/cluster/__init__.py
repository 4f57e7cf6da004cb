"""The room cluster."""

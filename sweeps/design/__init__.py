"""The room design."""

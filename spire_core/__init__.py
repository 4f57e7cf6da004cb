"""SPIRE core."""

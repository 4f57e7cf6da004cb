"""The room federation."""

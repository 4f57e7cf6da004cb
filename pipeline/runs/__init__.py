"""The room runs."""

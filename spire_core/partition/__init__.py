"""The room partition."""

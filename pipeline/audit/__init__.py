"""The audit of a finished run: what its messages and its adapted models give away."""

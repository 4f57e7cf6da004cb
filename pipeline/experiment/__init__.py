"""The room experiment."""

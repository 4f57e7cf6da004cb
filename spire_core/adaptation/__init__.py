"""The room adaptation."""

"""The room mixture."""

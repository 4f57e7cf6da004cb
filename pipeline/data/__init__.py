"""Data sets: the public ones, fetched and verified; the user's own images; other packages'."""

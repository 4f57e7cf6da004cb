"""The folder of a run: the names and formats of its files."""

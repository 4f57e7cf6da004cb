"""The command `spire`: its verbs parse, call the functions of `spire.py`, and print."""

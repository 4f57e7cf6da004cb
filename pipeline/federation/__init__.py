"""The server's side of an experiment; no file of a client can be reached from here."""

"""Scores of an experiment, computed from numbers alone; no file is read or written."""

"""The adaptation of new clients on a finished backbone, also with differential privacy."""

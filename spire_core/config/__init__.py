"""Settings of the algorithm: one file for each group; `checks` has their ranges and choices."""

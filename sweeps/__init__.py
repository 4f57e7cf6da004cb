"""Many experiments: sweeps over methods and settings. Builds on `pipeline`, and nothing builds on it."""

"""Many experiments: sweeps over methods and settings. Builds on `pipeline`, nothing on it."""

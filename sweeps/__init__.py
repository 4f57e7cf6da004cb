"""Many experiments: sweeps over methods and settings, and their reports."""

"""Many experiments: the space that is searched, the trials that run it, and reports over their runs."""

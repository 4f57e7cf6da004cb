"""One run from start to end: `run_experiment` in run.py is the data flow."""

"""The report of a sweep, from the runs in MLflow to pages."""

"""A run's record: an outbox on disk, and the loop that sends its entries to MLflow."""

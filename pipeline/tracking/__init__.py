"""MLflow: a run writes into an outbox on disk, and a thread delivers it.

tracker         the record of one run: start, resume, end
run_log         parameters, metrics, images and tables, written to the outbox
outbox          the outbox: one JSON entry on each line
relay           delivery in order, repeated until the store has everything
artifacts       images and tables in MLflow's formats
mlflow_session  connection to a store, experiments and runs
mlflow_sink     entries as MLflow calls that can be repeated
mlflow_model    a finished run as a model in MLflow
mlflow_queries  runs and histories read back from MLflow
"""

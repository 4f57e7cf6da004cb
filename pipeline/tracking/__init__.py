"""MLflow: a run appends to an outbox on disk, and a relay sends the entries to an idempotent sink.

tracker          the record of one run: start, resume, end
ends             the last status of a run whose process is gone
run_log          parameters, metrics, images and tables, written to the outbox
outbox           the durable queue: one JSON entry on each line; the reader of a run's curves
relay            sends the entries in order, until the store has everything
origin           tags of a run's user, source and versions
system_load      MLflow's system metrics, if its switch is on
relay_thread     relays the entries of a run beside its rounds
artifacts        images and tables in MLflow's formats
mlflow_session   connection to a store, experiments and runs
present_store    the rule of the typist: the present store alone gets a run's entries
mlflow_settings  MLflow's own settings: how long its requests wait
mlflow_errors    errors that may pass, and requests that are repeated
mlflow_sink      the sink: entries as MLflow calls that can be repeated
mlflow_model     a finished run as a model in MLflow
mlflow_queries   runs and histories read back from MLflow
attachments      files and a description for a run that has ended
"""

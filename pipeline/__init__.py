"""One experiment, end to end: configuration, data, the federation on Ray, evaluation, tracking, the command line.

Read `experiment` first. Nothing is imported here, so that `spire --help` answers at once.
    config, presets/   what an experiment is told
    datasets, known_datasets, image_folder, resize, fetch, sources   images, checked by hash
    worker, client_store   the clients' side; pool, ray_pool, resources   many clients on few processes
    driver      the rounds of FedAvg
    evaluation, forgetting   scores of pre-training and of adaptation
    runs        where runs lie, and how one is found
    tracking, mlflow_store, record, figures, image_grids, generator_model   what MLflow keeps
    saved_run, arrival   a finished run: draw from it, or add a client to it
    cli, progress, report_text, doctor   what a user types and sees
"""

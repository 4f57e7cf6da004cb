"""One experiment, end to end: configuration, data, the federation on Ray, tracking, command line.

Read `experiment` first. Nothing is imported here, so that `spire --help` answers at once.
    schema      what an experiment is told; config, typed, presets/   how that is read
    datasets, known_datasets, image_folder, resize, fetch, sources   images, checked by hash
    worker, worker_*, client_store   the clients' side; messages   what travels from and to it
    pool, ray_pool, ray_cluster, open_pool, resources   many clients on few processes
    allocation  what such a process does with freed memory
    setting     what is fixed before the first round
    pretraining, driver, ray_driver   the rounds of FedAvg, with evaluations and checkpoints
    adaptation  new clients, fitted together and looked at
    evaluation, forgetting   scores of pre-training and of adaptation; evaluator   beside rounds
    checkpoint, server_file, evaluation_store, disk   what an interrupted run goes on from
    checkpointer   checkpoints beside the rounds, and the way back to one
    storage     the same at S3 or elsewhere
    identity    when two configurations mean the same
    runs, run_files, start_file   where runs lie, what is in their folders; ray_job   paths in a job
    tracking, mlflow_store, generator_model   what MLflow keeps
    tracked_runs   what is read back from it
    metric_names, result, record, summary   what is written there
    record_figures, figures, image_grids   and drawn
    seed_figures   pictures of several runs
    saved_run, arrival   a finished run: draw from it, or add a client to it
    theory*     the Gaussian-mixture experiments
    cli, command, sync, theory_cli, doctor, working_dir   what a user types
    progress, *_text, text_table   and sees
"""

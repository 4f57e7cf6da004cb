"""One experiment, end to end: data, clients on Ray, evaluation, tracking, command line.

experiment/  a run from start to end; `run_experiment` in `run` is the place to begin
config/      the configuration of an experiment
data/        data sets and image folders
federation/  the server's side: driver, client pool, messages
clients/     the clients' side: workers and their private files
cluster/     Ray: actors, driver process, resources
evaluation/  scores, forgetting and diagnoses, computed without files
audit/       what a finished run's messages and models give away
results/     metrics, figures and files of a run
checkpoint/  the state from which an interrupted run continues
inference/   finished runs: generated images, clients that arrive later
runs/        names and formats of the files in a run's folder
tracking/    MLflow: a durable outbox and its delivery
theory/      the Gaussian-mixture experiments
figures/     plots, and the only import of matplotlib
files/       atomic files, damaged files, paths
cli/         the command `spire`
__main__     `python -m pipeline`
"""

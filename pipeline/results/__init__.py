"""The results of a run: metrics, records in the tracking run, files.

result             the results of an experiment as a record
metric_names       names of the metrics that sweeps ask for
metrics            metrics of rounds, epochs and the end
new_client_rows    the table of new clients
neighbour_columns  how generated images lie among training and held-out images
control_rows       scores of images that no fit to a new client has drawn
covered            new clients that pre-training clients cover, beside the others
world_rows         new clients' images, steps, and coverage by pre-training clients
params             the settings that are params of a run
recording          tags, metrics and artifacts, written stage by stage
recorded_figures   figures in the tracking run
prompt_sheet       a sheet of what new clients show and what was drawn for other prompts
diagnose           diagnoses of a finished run
note               the description of a run in MLflow
files              the result file and a grid of images
"""

"""Finished runs: images and new clients.

finished_runs     finished runs by their names
saved_run         a finished run: configuration, backbone, clients' own parts
drawing           what may be asked of a client's drawings
saved_tensors     the tensors of its files
arrival           a client that arrives after the end of a run
arrival_images    the images of such a client
pipeline_folder   a client as a pipeline of diffusers
mlflow_generator  the model in MLflow that generates images
"""

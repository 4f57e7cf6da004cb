"""Ray: the only room that imports it.

session        the cluster around this process: start, nodes, end
address        RAY_ADDRESS: whether it can be a head, and answers
watch          the loss of the cluster, before Ray ends this process
leaving        the end of this process without that of Ray
results        the results of actors, and their errors as sentences
import_path    the folders from which worker processes import
actor_plan     actors, CPUs and GPUs of an experiment, compared with the cluster
client_actor   a process that simulates clients, as a Ray actor
actor_pool     the client pool over such actors
driver_actor   the driver as a Ray actor
token          the token of local clusters, readable by its owner only
job_upload     size of the upload of a Ray job
"""

"""The clients' side: workers that simulate clients, one after the other.

worker      the worker: all tasks of a client
base        data, private states and network that the tasks share
rounds      tasks of pre-training rounds
evaluation  tasks of evaluations: generated images and held-out losses
adaptation  tasks of new clients
store       private states on disk, one file for each client and round
profiler    torch.profiler in a worker
memory      memory of a client's work, and actors that fit into a node
process     settings of a worker's process: threads, freed memory
"""

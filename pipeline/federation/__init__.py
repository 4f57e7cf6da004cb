"""The server's side of an experiment; no file of a client can be reached from here.

setup           data, partition and model, fixed before the first round
partitioning    the data and their split over clients
reference_data  the test split that scores compare with, if they do
other_metrics   a call of metrics that other packages bring
participants    the clients that stand for a large population
shown_captions  captions in the form in which a network is shown them
messages        the records that travel to and from workers
pool            the client pool: tasks for many clients, and the pool in this process
driver          the server's state and the rounds
private_rounds  rounds with differential privacy: cohorts and account
collecting      the workers' running sums, in which each client is once
rounds          the settings, the plan and the statistics of rounds
round_loop      the loop over rounds, and the interface of all that listens to it
"""

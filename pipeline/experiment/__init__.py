"""One run from start to end.

run              `run_experiment`: the stages in order
launch           the images and the cluster that a run needs
pools            the client pool and the driver, in this process or on Ray
pretraining      the rounds of pre-training
round_recorder   the metrics of every round in the run's record
scored_clients   the clients that are scored where a secret key draws the cohorts
evaluator        evaluations between rounds, with scores computed beside the next rounds
trained_clients  what clients that have trained lose with each other's parts, or gain by tuning
adaptation       the adaptation of new clients, and their measurements
population_scores  the population's own images and its KID before adaptation
export           the files of the finished model, and its fingerprint
reuse            the finished pre-training of another run
profiling        a torch.profiler trace of a few rounds
estimate         the time that a run takes
watcher          the events of a run for a progress display or a scheduler
"""

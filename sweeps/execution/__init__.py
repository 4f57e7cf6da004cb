"""The execution of a sweep: trials on Ray Tune.

source              the trials to run: a list, or the draws of Optuna
tasks               each trial with its share of the cluster
tune                Ray Tune: placement, restarts and ends of trials
tune_search         Optuna's search, as Ray Tune draws from it
trial               one trial: an experiment, started or continued
ended               ends of trials whose process is gone
shared_pretraining  pre-training that trials have in common
ledger              the outcome of every trial, on disk
trial_record        one of them
elsewhere           trials that other stretches of a study have finished
progress            how far a sweep is, read from its ledger
parent_run          the tracking run of the sweep
"""

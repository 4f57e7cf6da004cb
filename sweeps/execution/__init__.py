"""The execution of a sweep: trials on Ray Tune.

job                 all trials of a sweep
tune                Ray Tune, and its only import
trial               one trial: an experiment, started or continued
shared_pretraining  pre-training that trials have in common
ledger              the outcome of every trial, on disk
parent_run          the tracking run of the sweep
"""

"""The design of a sweep: its trials, before anything runs.

config      the settings of a sweep
axes        lists of values, and ranges
load        its YAML file, or one of ours by name
settings    what settings stand for: values of an axis, absolute paths, a key's label
metric      the metric by which the best trial is chosen
points      the points of the axes, and the trial at each
effect      settings without effect in any trial
planned     the runs that primary comparisons are of
compared    primary comparisons that no trial could be part of
trial_plan  resources of each trial, compared with the cluster
estimate    the time that a sweep takes
"""

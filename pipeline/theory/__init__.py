"""The Gaussian-mixture experiments.

run         experiments one by one, recorded and written
config      their settings and presets
scaling     A: errors of the estimators against n and d
failure     B: failures of descent, and limits of the bound
optimiser   C: speed of descent
components  D: weights of K components
backbone    E: weights on a wrong or learned backbone
bridge      F: denoising loss and likelihood
outcome     tables, panels and claims of an experiment
figures     the figure of an experiment
presets/    named experiments
"""

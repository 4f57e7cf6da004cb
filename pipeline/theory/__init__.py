"""The Gaussian-mixture experiments.

run                 experiments one by one, recorded and written
config              their settings and presets
scaling             A: errors of the estimators against n and d
failure             B: failures of descent, and limits of the bound
optimiser           C: speed of descent
components          D: weights of K components
backbone            E: weights on a wrong or learned backbone
bridge              F: denoising loss and likelihood
landscape           G: the expected loss as a function of the weights
any_shapes          G: components that are no Gaussians
readout             H: mixtures read off a classifier
shipped_classifier  H: the shipped classifier on test images
new_clients         H: new clients outside the hull of old ones
outcome             tables, panels and claims of an experiment
figures             the figure of an experiment
presets/            named experiments
"""

"""Gaussian mixtures under diffusion: the theory, with exact errors to compare with.

two_components          two components: score, denoising loss and its gradient in the weight
descent                 gradient descent on the denoising loss in the mixing weight
estimators              estimators of the weight without descent
exact_errors            the published bound, exact and asymptotic errors
bridge                  the identity between denoising and likelihood, by quadrature
landscape               gradients and curvatures of the expected loss
inexact_means           weights on a backbone whose means are wrong or learned
averaged_loss           the minimiser of the loss at one t, averaged over all noise
k_components            K components: recovery of softmax weights
k_component_references  K components: maximum likelihood, least squares, theory
histograms              K components of any shape: exact scores, descent in the logits
readout                 mixtures read off a classifier: estimator and error bound
"""

"""Gaussian mixtures under diffusion: descent on the denoising loss, beside exact errors."""

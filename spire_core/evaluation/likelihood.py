"""FLD: how unlikely images that nobody trained on are, given the generated ones.

Jiralerspong et al. 2023 (arXiv 2302.04440), after their code. A Gaussian around each generated
image has a width of its own, fitted to the training images. Copies of these are surrounded by
narrow ones, which few unseen images are near, so that copies lose, as do wrong and missing images.
Letters: q generated, m training and n unseen images of one client, D features.
"""

import math

import torch
from torch import Tensor

NUM_STEPS = 50
LR = 0.5
MIN_CHANGE = 5e-4  # of the loss over the last steps, below which the fit ends
ORIGIN = 0.9  # how near the training images are drawn to their mean for the Gaussian around it
CLAMP = 40.0  # of a logarithm of a variance
HIGHEST = 1000.0  # above it, images are completely memorised


def fld(generated: Tensor, train: Tensor, unseen: Tensor) -> float:
    """Return 100 times the negative log likelihood of unseen images, per feature; lower is better.

    Features are (q, D), (m, D), (n, D). At most HIGHEST: without an end, one client of exact copies
    would decide any mean. 0 if no feature tells the real images apart. Its level depends on the
    numbers of images: compare it with that of fresh images, as many.
    """
    sets = (features.detach().cpu().double() for features in (generated, train, unseen))
    centres, fitted, others = _scaled(*sets)
    if centres.shape[1] == 0:
        return 0.0
    nll = _nll(centres, fitted_log_variances(centres, fitted), others)
    return min(float(100 * nll), HIGHEST)


def _scaled(generated: Tensor, train: Tensor, unseen: Tensor) -> list[Tensor]:
    """Return features with mean 0 and variance 1 over real images, without constant ones.

    Paper: over the unseen images. We: over training and unseen images, which are then treated
    alike, because a client may have few of them.
    """
    real = torch.cat([train, unseen])
    mean, std = real.mean(0), real.std(0, correction=0)
    kept = std > 1e-9 * std.amax().clamp(min=1e-300)
    return [(features[:, kept] - mean[kept]) / std[kept] for features in (generated, train, unseen)]


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Return squared distances (N, M) between x (N, D) and y (M, D)."""
    # Without a matrix product, so that a copy is at distance 0.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def _log_densities(squared: Tensor, log_var: Tensor, num_features: int) -> Tensor:
    """Return log N(x | centre, exp(log_var) I) by squared distances (N, M)."""
    spread = num_features * (log_var + math.log(2 * math.pi))
    return -0.5 * (squared / log_var.exp() + spread)


def fitted_log_variances(centres: Tensor, x: Tensor) -> Tensor:
    """Return log variances (q,) of Gaussians around centres (q, D), fitted to x (m, D).

    Adam maximises the likelihood of x, beside a Gaussian around its mean that keeps images far from
    all centres from widening them.
    """
    dim, squared = centres.shape[1], _squared(x, centres)
    around_mean = ORIGIN**2 * _squared(x, x.mean(0, keepdim=True))
    log_var = ((squared.amin(0) + 1e-3) / dim).log().requires_grad_()
    origin = torch.zeros(1, dtype=log_var.dtype, requires_grad=True)
    optimizer, losses = torch.optim.Adam([log_var, origin], lr=LR), list[float]()
    for step in range(NUM_STEPS):
        with torch.enable_grad():
            near = _log_densities(squared, log_var, dim) - math.log(len(centres))
            far = _log_densities(around_mean, origin, dim)
            loss = -torch.cat([near, far], dim=1).logsumexp(1).mean() / dim
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        log_var.data.clamp_(-CLAMP, CLAMP)
        losses.append(float(loss.detach()))
        if step > 5 and max(abs(losses[-1] - before) for before in losses[-5:-1]) < MIN_CHANGE:
            break
    return log_var.detach()


def _nll(centres: Tensor, log_var: Tensor, x: Tensor) -> Tensor:
    """Return the mean negative log likelihood of x (N, D) under the mixture, over D."""
    dim = centres.shape[1]
    near = _log_densities(_squared(x, centres), log_var, dim) - math.log(len(centres))
    return -near.logsumexp(1).mean() / dim

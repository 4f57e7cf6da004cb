"""The protection of new clients' images by differential privacy.

P: length of the weight vector, D_emb: numbers of an embedding.
"""

import numpy as np
from torch import Tensor

from pipeline.clients.adaptation import ClientAdapter
from spire_core.adaptation.private_descent import Protection
from spire_core.adaptation.public_clip import NOBODY, generated_client, public_clip_norm
from spire_core.config.adapt import AdaptConfig
from spire_core.privacy.noise import SecretNoise


def choose_clip_norm(
    adapter: ClientAdapter, weights: np.ndarray, settings: AdaptConfig, mean_emb: Tensor | None
) -> float:
    """Return the clip norm of all private fits on the backbone (P,).

    It is the given one or, without any client's image, that of images that the backbone generates.
    """
    context = adapter.context
    config, private = context.config, context.config.privacy.adapt
    if private.clip_norm is not None:
        return private.clip_norm
    backbone, objective = context.on_device(weights), context.objective()
    public = (context.image_shape, config.seed)
    nobody = generated_client(context.model, backbone, objective, *public)
    start = adapter.start_state(NOBODY, settings.init, mean_emb)
    more = (start, private, objective, _rate(adapter))
    return public_clip_norm(context.model, backbone, nobody, *more)


def protection_of(
    adapter: ClientAdapter, settings: AdaptConfig, clip_norm: float, noise: SecretNoise
) -> Protection:
    """Return the protection that the configuration asks for."""
    private = adapter.context.config.privacy.adapt
    return Protection(private, clip_norm, noise, _rate(adapter), settings.eval_every)


def _rate(adapter: ClientAdapter) -> float:
    rate = adapter.context.config.private_lr
    assert rate is not None  # a method that trains nothing is refused with a budget
    return rate

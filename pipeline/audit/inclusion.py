"""A client adapted to a random half of its images: an experiment for a lower bound on epsilon.

The bound holds for the fit of new clients that the run's settings describe, whatever it is, and for
one image of a client (Steinke et al. 2023).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.audit.membership import candidates, reference_scores
from pipeline.clients.adaptation import observe_nothing
from pipeline.clients.worker import ClientWorker
from spire_core.adaptation.adapt import adapt_client
from spire_core.privacy.one_run import epsilon_from_scores
from spire_core.rng import numpy_generator


@dataclass(frozen=True)
class OneRun:
    """A lower bound on epsilon at confidence 95 %, and the experiment behind it."""

    client_id: int
    num_images: int
    num_included: int
    epsilon_lower: float


def one_run_audit(
    worker: ClientWorker,
    weights: np.ndarray,
    client_id: int,
    mean_emb: Tensor | None,
    delta: float = 0.0,
) -> OneRun:
    """Adapt a client anew, with each of its images included with probability 1/2.

    `mean_emb` (D_emb,): that of the pre-training clients, where new ones start at it. Returns the
    bound from the reference attack on all images, 0 if too few are included for a fit. Nothing is
    stored.
    """
    context, config = worker.context, worker.setup.config
    client = worker.client_data(client_id)
    whole = client.with_images_at(candidates(client)[0], config.seed)
    coins = numpy_generator(config.seed, "audit_inclusion", client_id).random(len(whole.images))
    included = coins < 0.5
    settings = replace(config.adapt, num_images=None)
    if included.sum() < (2 if settings.sets_aside else 1):
        return OneRun(client_id, len(coins), int(included.sum()), 0.0)
    adapted = adapt_client(
        context.model,
        worker.adapter.start_weights(client_id, weights),
        whole.chosen(torch.from_numpy(included)),
        worker.adapter.start_state(client_id, settings.init, mean_emb),
        settings,
        context.objective(),
        observe_nothing,
    )
    scores = reference_scores(worker, weights, client_id, adapted.state, whole.images)
    bound = epsilon_from_scores(scores, included, delta)
    return OneRun(client_id, len(coins), int(included.sum()), bound)

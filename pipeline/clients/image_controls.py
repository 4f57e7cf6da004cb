"""The scores of a new client's controls: images that no fit to it has drawn, taken as if one had.

`pipeline.evaluation.controls` plans them.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.copies import signs_of_copies
from pipeline.clients.evaluation import ClientEvaluator
from pipeline.federation.messages import ControlPlan, ControlScores
from spire_core.evaluation.precision_recall import per_client, some
from spire_core.training.fit import to_float

NEAREST_DRAWS = "nearest_draws"


def score_controls(
    evaluator: ClientEvaluator, client: ClientData, plan: ControlPlan, drawn: Tensor | None
) -> dict[str, ControlScores]:
    """Return the scores of a client's controls by name; `drawn`: images (n, C, H, W) of another's
    model, if the plan has one draw.
    """
    images = {name: _images(client.images, at) for name, at in plan.positions.items()}
    if drawn is not None:
        images[NEAREST_DRAWS] = drawn
    return {name: _scores(evaluator, client, some) for name, some in images.items()}


def _images(images: np.ndarray, positions: np.ndarray) -> Tensor:
    return to_float(torch.from_numpy(images[positions]))


def _scores(evaluator: ClientEvaluator, client: ClientData, images: Tensor) -> ControlScores:
    samples = evaluator.samples(client, images)
    own = evaluator.kid_against(evaluator.reference_features(client), samples).mean
    config, client_id = evaluator.context.config, client.client_id
    near, gap = signs_of_copies(evaluator, client.as_fitted(config), images, samples)
    limit = per_client(config.federation.num_new_clients)
    pooled = some(samples.features, limit, config.seed, client_id)
    return ControlScores(own, evaluator.tv(client, samples), near, gap, pooled)

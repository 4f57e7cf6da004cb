"""The clip norm of private fits, chosen on images that the published backbone generates.

A bound that was chosen on private images would tell something about them. Generated images are a
function of the backbone, which is public to a new client, and of the run's seed.
"""

import torch
from torch import Tensor

from spire_core.adaptation.adapt_privately import offsets
from spire_core.adaptation.private_gradients import (
    PartGradients,
    embedding_gradients,
    images_at_once,
    pieces,
)
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.errors import ConfigError
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.network.flat_model import FlatModel, train_only
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

NUM_IMAGES = 64
NOBODY = -1  # stands for a client's id in the streams of generated images


def generated_client(
    model: FlatModel,
    weights: Tensor,
    objective: TrainingObjective,
    shape: tuple[int, int, int],
    seed: int,
) -> ClientContext:
    """Return images (C, H, W) that the backbone (P,) draws as its population, as a client's.

    They are drawn without captions: nobody's prompts are read.
    """
    model.load(weights)
    model.net.eval()
    own = torch_generator(seed, "public_clip")
    drawn = draw(client_denoiser(model.net, None), objective.diffusion, shape, NUM_IMAGES, own)
    if objective.diffusion.codec is not None:
        return ClientContext(NOBODY, seed, objective.diffusion.encoded(drawn))
    return ClientContext(NOBODY, seed, ((drawn + 1) * 127.5).round().byte())


def public_clip_norm(
    model: FlatModel,
    weights: Tensor,
    client: ClientContext,
    start: PrivateState,
    settings: PrivateAdaptConfig,
    objective: TrainingObjective,
    lr: float,
) -> float:
    """Return the median length of public images' contributions on the backbone (P,).

    A contribution is what private fits clip: a gradient at the start, or with one release an
    offset. ConfigError if it is zero, so that nothing can be trained with it.
    """
    [part] = model.method.record.adapt_parts
    emb = load_client(model, weights, start)
    own = model.weights[model.layout.parts[part]] if emb is None else emb
    model.net.eval()
    train_only(model.net, model.layout, ())
    size = images_at_once(settings.draws, len(own))
    shown = pieces(client, settings.draws, size, 0, objective)
    if emb is None:
        gradients = PartGradients(model, objective, part)
        found = [gradients(own, piece).norm(dim=1, keepdim=True) for piece in shown]
    elif settings.mechanism == "dp_sgd":
        rows = ((own.expand(len(piece.images), -1), piece) for piece in shown)
        found = [embedding_gradients(model, objective, *pair) for pair in rows]
    else:
        found = [offsets(model, objective, client, own, settings, lr)]
    median = float(torch.linalg.vector_norm(torch.cat(found).double(), dim=1).median())
    if not 0 < median < float("inf"):
        raise ConfigError(
            f"expected a positive clip norm from images of the backbone, got {median}: it has "
            "learned nothing, so set privacy.adapt.clip_norm"
        )
    return median

"""The noise that private fits really add: each release has its own, of the accounted length."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from spire_core.adaptation.adapt_privately import Protection, adapt_privately
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.private_state import PrivateState
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.privacy.guarantee import NUM_COUNTS
from spire_core.privacy.noise import GRID, SecretNoise, key_of
from spire_core.privacy.release import BoundedSum
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective
from spire_core.training.several import table_of

MODEL = ModelConfig(d_emb=64, width=8, multipliers=(1,), attention=(), cond_dim=16)
SIZES = {7: 8, 3: 5}  # images of each new client
CLIP_NORM, STEPS = 0.05, 3


def images(client_id: int) -> Tensor:
    shape, own = (SIZES[client_id], 1, 8, 8), torch_generator(2, "images", client_id)
    return torch.randint(0, 256, shape, generator=own).byte()


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The noise of each release, over the clip norm: the released sum minus that of the images."""
    found, release = list[np.ndarray](), BoundedSum.release

    def recorded(total: BoundedSum, *args: Any) -> Tensor:
        noisy = release(total, *args)
        found.append((noisy / total.clip_norm - total.steps.double() / GRID).numpy())
        return noisy

    monkeypatch.setattr(BoundedSum, "release", recorded)
    return found


@pytest.mark.parametrize(
    ("method", "mechanism", "num_embs"),
    [
        ("spire", "dp_sgd", 1),
        ("spire", "dp_sgd", 16),
        ("spire", "one_release", 1),
        ("bias", "dp_sgd", 1),
    ],
)
def test_each_release_has_noise_of_its_own_as_long_as_its_guarantee_says(
    method: str, mechanism: str, num_embs: int, released: list[np.ndarray]
) -> None:
    config = PrivateAdaptConfig(epsilon=4.0, steps=STEPS, draws=2, mechanism=mechanism)
    key = SecretNoise(key_of("key"))
    protection = Protection(config, CLIP_NORM, key, 0.02, num_embs=num_embs)
    network = (MODEL, MethodConfig(name=method), 1)
    weights, starts = initial_weights(*network, seed=1), [PrivateState()] * len(SIZES)
    if method == "spire":
        part = table_of(torch.full((num_embs, 64), 0.1))
        starts = [PrivateState({"client_emb": part})] * len(SIZES)
    clients = [ClientContext(client_id, 2, images(client_id)) for client_id in SIZES]
    objective = TrainingObjective(Diffusion.of(DiffusionConfig()))
    observers = [lambda *_: {}] * len(SIZES)
    more = (protection, objective, observers)
    adapt_privately(FlatModel(*network), weights, clients, starts, *more)

    guarantees = [protection.guarantee(size) for size in SIZES.values()]
    sigmas = [guarantee.noise_multiplier for guarantee in guarantees]
    num_releases = guarantees[0].num_steps
    in_turn = sigmas * num_releases  # clients side by side
    if num_embs > 1:  # but for each one's counts of images, after its last step
        last = [sigma for sigma in sigmas for _ in range(1 + NUM_COUNTS)]
        in_turn = sigmas * (STEPS - 1) + last
    if method != "spire":
        in_turn = [sigma for sigma in sigmas for _ in range(num_releases)]
    assert len(released) == len(in_turn)
    normals = [noise / sigma for noise, sigma in zip(released, in_turn, strict=True)]
    for one in normals:
        assert kstest(one, "norm").pvalue > 0.001
    for one, other in combinations(normals, 2):
        size = min(len(one), len(other))
        assert abs(np.corrcoef(one[:size], other[:size])[0, 1]) < (0.5 if size > 16 else 0.9)

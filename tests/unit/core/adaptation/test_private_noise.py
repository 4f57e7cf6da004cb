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
from spire_core.privacy.noise import GRID, SecretNoise, key_of
from spire_core.privacy.release import BoundedSum
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

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
        found.append((noisy / CLIP_NORM - total.steps.double() / GRID).numpy())
        return noisy

    monkeypatch.setattr(BoundedSum, "release", recorded)
    return found


@pytest.mark.parametrize(
    ("method", "mechanism"), [("spire", "dp_sgd"), ("spire", "one_release"), ("bias", "dp_sgd")]
)
def test_each_release_has_noise_of_its_own_as_long_as_its_guarantee_says(
    method: str, mechanism: str, released: list[np.ndarray]
) -> None:
    config = PrivateAdaptConfig(epsilon=4.0, steps=STEPS, draws=2, mechanism=mechanism)
    protection = Protection(config, CLIP_NORM, SecretNoise(key_of("key")), 0.02)
    network = (MODEL, MethodConfig(name=method), 1)
    weights, starts = initial_weights(*network, seed=1), [PrivateState()] * len(SIZES)
    if method == "spire":
        starts = [PrivateState({"client_emb": torch.full((64,), 0.1)})] * len(SIZES)
    clients = [ClientContext(client_id, 2, images(client_id)) for client_id in SIZES]
    objective = TrainingObjective(Diffusion.of(DiffusionConfig()))
    observers = [lambda *_: {}] * len(SIZES)
    more = (protection, objective, observers)
    adapt_privately(FlatModel(*network), weights, clients, starts, *more)

    guarantees = [protection.guarantee(size) for size in SIZES.values()]
    sigmas = [guarantee.noise_multiplier for guarantee in guarantees]
    num_releases = guarantees[0].num_steps
    in_turn = sigmas * num_releases  # clients side by side
    if method != "spire":
        in_turn = [sigma for sigma in sigmas for _ in range(num_releases)]
    assert len(released) == len(in_turn)
    normals = [noise / sigma for noise, sigma in zip(released, in_turn, strict=True)]
    for one in normals:
        assert kstest(one, "norm").pvalue > 0.001
    for one, other in combinations(normals, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.5

"""Private descent of one client: Adam on noisy sums of clipped gradients, and its averaged iterate.

DP-SGD (Abadi et al. 2016, algorithm 1), where a step's sum is divided by the expected number of its
images. All that follows a noisy sum, such as Adam and the average, costs no privacy. P: numbers
that are trained.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spire_core.adaptation.adapt import Adapted, AdaptPoint, Observe
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.federated.private_state import PrivateState
from spire_core.network.flat_model import FlatModel
from spire_core.privacy.guarantee import Guarantee, guarantee_of
from spire_core.privacy.noise import SecretNoise
from spire_core.privacy.release import BoundedSum
from spire_core.training.adam import Adam
from spire_core.training.context import ClientContext

AVERAGING = 3.0  # eta of the average: the larger, the more weigh the last iterates


@dataclass(frozen=True)
class Protection:
    """The protection of new clients.

    `clip_norm` is chosen without private images. `lr`: the rate of noisy steps. `eval_every`: steps
    between two observations.
    """

    settings: PrivateAdaptConfig
    clip_norm: float
    noise: SecretNoise
    lr: float
    eval_every: int = 1

    def guarantee(self, num_images: int) -> Guarantee:
        """Return the guarantee to a client of so many images; ConfigError if none is possible."""
        found = guarantee_of(self.settings, num_images, self.noise.is_simulated)
        assert found is not None  # there is no protection without a budget
        return found

    def is_observed(self, step: int) -> bool:
        """Return whether clients are observed after a step, counted from 1."""
        return step % self.eval_every == 0 or step == self.settings.steps


class PrivateDescent:
    """One client's descent from a start (P,): the iterate, and the average that is published."""

    def __init__(
        self,
        start: Tensor,
        client: ClientContext,
        protection: Protection,
    ) -> None:
        self.client, self.protection = client, protection
        self.guarantee = protection.guarantee(len(client.images))
        self.iterate, self.average = nn.Parameter(start.clone()), start.clone()
        self._optimizer = Adam({"part": self.iterate}, {"part": protection.lr}, {})

    def shown_in(self, step: int) -> ClientContext:
        """Return the client with a step's images; without the key nobody can tell which."""
        rate, client = self.guarantee.sampling_rate, self.client
        if rate == 1.0:
            return client
        place = (client.client_id, step)
        chosen = self.protection.noise.chosen(len(client.images), rate, "adapt_sampling", *place)
        return client.chosen(torch.from_numpy(chosen))

    def new_sum(self) -> BoundedSum:
        """Return the empty sum of a step's gradients."""
        return BoundedSum(len(self.iterate), self.protection.clip_norm, self.iterate.device)

    def take_step(self, step: int, gradients: BoundedSum) -> None:
        """Take step number `step`, from 1 on, along a noisy sum of the images' gradients.

        average_s = (1 - c) average_{s-1} + c iterate_s with c = (eta + 1) / (s + eta): the
        polynomial-decay average of Shamir & Zhang 2013.
        """
        place = (self.client.client_id, step)
        normals = self.protection.noise.normals(len(self.iterate), "adapt_step", *place)
        total = gradients.release(self.guarantee.noise_multiplier, normals)
        self.iterate.grad = (total / self.guarantee.batch).to(self.iterate.dtype)
        self._optimizer.step()
        self.average.lerp_(self.iterate.detach(), (AVERAGING + 1) / (step + AVERAGING))


class PrivateCurve:
    """One client's observations. They hold no loss of its private images."""

    def __init__(self, observe: Observe, model: FlatModel, emb: Tensor | None) -> None:
        self.observe, self.model = observe, model
        self.points = list[AdaptPoint]()
        self.add(0, emb)

    def add(self, step: int, emb: Tensor | None, is_observed: bool = True) -> None:
        """Add a step; observe the client with this embedding and the model's weights."""
        observed = self.observe(step, self.model, emb) if is_observed else None
        self.points.append(AdaptPoint(step, None, None, observed))

    def result(self, part: str, kept: Tensor) -> Adapted:
        """Return the part that is published, and the curve; the kept step is the last."""
        state = PrivateState({part: kept.detach().cpu().clone()})
        return Adapted(state, tuple(self.points), self.points[-1].epoch)

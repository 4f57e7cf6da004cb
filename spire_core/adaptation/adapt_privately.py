"""Differentially private adaptation of new clients: of embeddings in one batch, or of one part.

The unit is one image of a client, and the backbone is public. Whatever is returned and observed
depends on a client's images through noisy sums alone: there is no early stopping and no loss of
training images. All that follows a noisy sum, such as Adam and the average, costs no privacy.
A clip norm that was chosen on private images would tell something about them. Generated images are
a function of the backbone, which is public to a new client, and of the run's seed.
Of M embeddings, each step shows an image with the one of its lowest loss, so that which one it is
depends on the image and on published numbers alone. One image's gradient of all M is clipped as
one. In the end noisy counts of the images of each embedding become its weights.
P: numbers that are trained, D_emb: numbers of an embedding, n: images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spire_core.adaptation.adapt import Adapted, AdaptPoint, Observe
from spire_core.adaptation.private_gradients import (
    PartGradients,
    Piece,
    embedding_gradients,
    images_at_once,
    lowest_losses,
    pieces,
)
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.errors import ConfigError
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, train_only
from spire_core.privacy.guarantee import NUM_COUNTS, Guarantee, guarantee_of
from spire_core.privacy.noise import SecretNoise
from spire_core.privacy.release import BoundedSum
from spire_core.rng import torch_generator
from spire_core.training.adam import Adam
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective
from spire_core.training.several import PRIOR, is_table

NUM_IMAGES = 64  # of those that choose a clip norm
NOBODY = -1  # stands for a client's id in the streams of generated images
AVERAGING = 3.0  # eta of the average: the larger, the more weigh the last iterates


@dataclass(frozen=True)
class Protection:
    """The protection of new clients.

    `clip_norm` is chosen without private images. `lr`: the rate of noisy steps. `eval_every`: steps
    between two observations. `num_embs`: of a client.
    """

    settings: PrivateAdaptConfig
    clip_norm: float
    noise: SecretNoise
    lr: float
    eval_every: int = 1
    num_embs: int = 1

    def guarantee(self, num_images: int) -> Guarantee:
        """Return the guarantee to a client of so many images; ConfigError if none is possible."""
        found = guarantee_of(self.settings, num_images, self.noise.is_simulated, self.num_embs)
        assert found is not None  # there is no protection without a budget
        return found


def adapt_privately(
    model: FlatModel,
    weights: Tensor,
    clients: Sequence[ClientContext],
    starts: Sequence[PrivateState],
    protection: Protection,
    objective: TrainingObjective,
    observers: Sequence[Observe],
) -> list[Adapted]:
    """Fit new clients on the backbone `weights` with differential privacy for their images.

    They train a single part, and share passes through the network. The model ends with the part
    that the last of them publishes. An observer gets the averaged iterate, as it would be
    published.
    """
    model.net.eval()
    train_only(model.net, model.layout, ())
    settings, everybody = protection.settings, zip(clients, starts, observers, strict=True)
    fits = [
        PrivateFit(model, weights, client, start, protection, observe)
        for client, start, observe in everybody
    ]
    if settings.mechanism == "one_release":
        for one in fits:
            moves = offsets(model, objective, one.client, one.iterate, settings, protection.lr)
            one.release_mean(moves)
        return [one.result() for one in fits]
    size = images_at_once(settings.draws * protection.num_embs, len(fits[0].iterate))
    gradients = _gradients(model, objective)
    for step in range(1, settings.steps + 1):
        for shared in _passes(fits, settings.draws, size, step, objective):
            for (one, _), own in zip(shared, gradients(shared), strict=True):
                one.total.add(own)
        is_last = step == settings.steps
        for one in fits:
            one.take_step(step)
            if is_last and one.weights is not None:
                one.weigh(one.weights, objective, size)
            one.record(step, is_observed=step % protection.eval_every == 0 or is_last)
    return [one.result() for one in fits]


def loaded(model: FlatModel, weights: Tensor, start: PrivateState) -> tuple[Tensor, Tensor | None]:
    """Load a client's start into the model; return the part (P,) that trains.

    Of several embeddings also their weights (M,).
    """
    [part] = model.method.record.adapt_parts
    emb = load_client(model, weights, start)
    if emb is None:
        return model.weights[model.layout.parts[part]], None
    return (emb[:, :-1].flatten(), emb[:, -1]) if is_table(emb) else (emb, None)


class PrivateFit:
    """One client's private fit of a part (P,), from its start to what is published.

    `iterate`: where the next step begins; `published`: the average of iterates; `total`: the sum
    that is released next. `weights` (M,) of several embeddings, None of any other part.
    """

    def __init__(
        self,
        model: FlatModel,
        weights: Tensor,
        client: ClientContext,
        start: PrivateState,
        protection: Protection,
        observe: Observe,
    ) -> None:
        """Load the client's start into the model, and observe it."""
        [self.part] = model.method.record.adapt_parts
        own, self.weights = loaded(model, weights, start)
        self.model, self.client, self.protection = model, client, protection
        self.observe, self.curve = observe, list[AdaptPoint]()
        self.guarantee = protection.guarantee(len(client.images))
        self.iterate, self.published = nn.Parameter(own.clone()), own.clone()
        self._optimizer = Adam({self.part: self.iterate}, {self.part: protection.lr}, {})
        self.total = BoundedSum(len(own), protection.clip_norm, own.device)
        self.record(0, is_observed=True)

    def shown_in(self, step: int) -> ClientContext:
        """Return the client with a step's images; without the key nobody can tell which."""
        rate, client = self.guarantee.sampling_rate, self.client
        if rate == 1.0:
            return client
        place = (client.client_id, step)
        chosen = self.protection.noise.chosen(len(client.images), rate, "adapt_sampling", *place)
        return client.chosen(torch.from_numpy(chosen))

    def take_step(self, step: int) -> None:
        """Take step number `step`, from 1 on, along the noisy sum of the images' gradients.

        DP-SGD (Abadi et al. 2016, algorithm 1), where a step's sum is divided by the expected
        number of its images. average_s = (1 - c) average_{s-1} + c iterate_s with
        c = (eta + 1) / (s + eta): the polynomial-decay average of Shamir & Zhang 2013.
        """
        self.iterate.grad = self._released("adapt_step", step).to(self.iterate.dtype)
        self._optimizer.step()
        self.published.lerp_(self.iterate.detach(), (AVERAGING + 1) / (step + AVERAGING))

    def weigh(self, weights: Tensor, objective: TrainingObjective, size: int) -> None:
        """Replace the weights (M,) by noisy shares of images, each by its lowest loss.

        Each count is a noisy sum like a step's, in which an image is a vector of length 1. Each
        share has `several.PRIOR` images more. `size`: images that are computed at once.
        """
        settings, shares = self.protection.settings, torch.zeros_like(weights, dtype=torch.float64)
        for step in range(settings.steps + 1, settings.steps + NUM_COUNTS + 1):
            self.total = BoundedSum(len(weights), 1.0, weights.device)
            for piece in pieces(self.shown_in(step), settings.draws, size, step, objective):
                embs = self.published.expand(len(piece.images), -1)
                self.total.add(lowest_losses(self.model, objective, embs, piece))
            shares += self._released("adapt_step", step) / NUM_COUNTS
        shares = shares.clamp(min=0) + PRIOR / self.guarantee.num_units
        self.weights = (shares / shares.sum()).to(weights)

    def release_mean(self, moves: Tensor) -> None:
        """Move by the noisy mean of the images' own moves (n, P), in one release."""
        self.total.add(moves)
        self.published += self._released("adapt_release").to(self.published.dtype)
        self.record(self.protection.settings.steps, is_observed=True)

    def result(self) -> Adapted:
        """Return the part that is published, and the curve; the kept step is the last."""
        return Adapted(self._state(), tuple(self.curve), self.curve[-1].epoch)

    def _state(self) -> PrivateState:
        """Return the part as it is published: of several embeddings, the table with weights."""
        part = self.published
        if self.weights is not None:
            part = torch.cat([part.view(len(self.weights), -1), self.weights[:, None]], 1)
        return PrivateState({self.part: part.detach().cpu().clone()})

    def _released(self, purpose: str, *counters: int) -> Tensor:
        """Return the noisy sum, over the expected number of its images; a new one begins."""
        place, noise = (self.client.client_id, *counters), self.protection.noise
        normals = noise.normals(len(self.total.steps), purpose, *place)
        released = self.total.release(self.guarantee.noise_multiplier, normals)
        self.total = BoundedSum(len(self.iterate), self.protection.clip_norm, self.iterate.device)
        return released / self.guarantee.batch

    def record(self, step: int, is_observed: bool) -> None:
        """Add a point, which holds no loss of private images; put what is published in place."""
        if is_observed and self.part != CLIENT_EMB:
            self.model.weights[self.model.layout.parts[self.part]] = self.published
        observed = self.observe(step, self._state()) if is_observed else None
        self.curve.append(AdaptPoint(step, None, None, observed))


Pass = list[tuple[PrivateFit, Piece]]


def _passes(
    fits: Sequence[PrivateFit], num_draws: int, size: int, step: int, objective: TrainingObjective
) -> Iterator[Pass]:
    """Yield a step's images in passes through the network, which clients share."""
    waiting: Pass = []
    for one in fits:
        for piece in pieces(one.shown_in(step), num_draws, size, step, objective):
            if sum(len(other.images) for _, other in waiting) + len(piece.images) > size:
                yield waiting
                waiting = []
            waiting.append((one, piece))
    if waiting:
        yield waiting


def _gradients(
    model: FlatModel, objective: TrainingObjective
) -> Callable[[Pass], Sequence[Tensor]]:
    """Return what computes the gradients (n, P) of each piece of a pass."""
    [part] = model.method.record.adapt_parts
    if part != CLIENT_EMB:
        of_part = PartGradients(model, objective, part)
        return lambda shared: [of_part(one.iterate, piece) for one, piece in shared]

    def of_embeddings(shared: Pass) -> Sequence[Tensor]:
        sizes = [len(piece.images) for _, piece in shared]
        embs = [one.iterate.detach().expand(len(piece.images), -1) for one, piece in shared]
        whole = Piece(*map(torch.cat, zip(*(piece for _, piece in shared), strict=True)))
        return embedding_gradients(model, objective, torch.cat(embs), whole).split(sizes)

    return of_embeddings


def offsets(
    model: FlatModel,
    objective: TrainingObjective,
    client: ClientContext,
    start: Tensor,
    settings: PrivateAdaptConfig,
    lr: float,
) -> Tensor:
    """Return how far each image's own embedding moves from the start (D_emb,), as (n, D_emb).

    DPAgg-TI (Peetathawatchai et al. 2026, arXiv 2411.14639, section 4): an image's embedding
    depends on no other image. Its move is clipped, so that one image moves the mean by at most
    C / n.
    """
    embs = nn.Parameter(start.detach().expand(len(client.images), -1).clone())
    # Adam steps every number by itself, so that one optimizer serves all embeddings.
    optimizer = Adam({CLIENT_EMB: embs}, {CLIENT_EMB: lr}, {})
    size = images_at_once(settings.draws, len(start))
    for step in range(1, settings.steps + 1):
        own = pieces(client, settings.draws, size, step, objective)
        rows = zip(embs.detach().split(size), own, strict=True)
        gradients = [embedding_gradients(model, objective, *pair) for pair in rows]
        embs.grad = torch.cat(gradients)
        optimizer.step()
    return embs.detach() - start.detach()


# --- the clip norm, on images that the published backbone generates ---


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
    own, shares = loaded(model, weights, start)
    model.net.eval()
    train_only(model.net, model.layout, ())
    num_embs = 1 if shares is None else len(shares)
    size = images_at_once(settings.draws * num_embs, len(own))
    shown = pieces(client, settings.draws, size, 0, objective)
    if part != CLIENT_EMB:
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

"""Private adaptation: what depends on images, what on the key, and that groups make no difference.

With hardly any noise and a clip norm that no gradient reaches, it is plain full-batch descent.
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spire_core.adaptation.adapt import Adapted
from spire_core.adaptation.adapt_privately import (
    AVERAGING,
    NUM_IMAGES,
    Protection,
    adapt_privately,
    generated_client,
    offsets,
    public_clip_norm,
)
from spire_core.adaptation.private_gradients import (
    PartGradients,
    embedding_gradients,
    pieces,
    whole_draws,
)
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.diffusion.process import Diffusion
from spire_core.errors import ConfigError
from spire_core.federated.private_state import PrivateState
from spire_core.methods import METHODS
from spire_core.network.flat_model import FlatModel, initial_weights, train_only
from spire_core.privacy.guarantee import NUM_COUNTS
from spire_core.privacy.noise import SecretNoise, key_of
from spire_core.rng import torch_generator
from spire_core.training.adam import Adam
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, to_float
from spire_core.training.several import PRIOR, table_of

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)
SIZES = {7: 12, 3: 5, 12: 9}  # images of each new client
LOUD = PrivateAdaptConfig(epsilon=4.0, steps=4, draws=3)
SAMPLING = PrivateAdaptConfig(epsilon=0.3, steps=4, draws=3, batch_size=6)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def objective() -> TrainingObjective:
    return TrainingObjective(Diffusion.of(DiffusionConfig()))


def network(method: str = "spire", config: ModelConfig = MODEL) -> tuple[FlatModel, Tensor]:
    """Return a network and weights whose zero-initialised layers are not zero."""
    settings = (config, MethodConfig(name=method), 1)
    weights = initial_weights(*settings, seed=1)
    weights += 0.05 * torch.randn(weights.shape, generator=torch_generator(1, "perturb"))
    return FlatModel(*settings), weights


def client(client_id: int) -> ClientContext:
    shape, own = (SIZES[client_id], 1, 8, 8), torch_generator(2, "images", client_id)
    return ClientContext(client_id, 2, torch.randint(0, 256, shape, generator=own).byte())


def start(method: str = "spire") -> PrivateState:
    has_embedding = METHODS[method].has_embedding
    return PrivateState({"client_emb": torch.full((5,), 0.1)} if has_embedding else {})


def fit(
    clients: list[ClientContext],
    settings: PrivateAdaptConfig = LOUD,
    method: str = "spire",
    key: str = "key",
    clip_norm: float = 0.05,
    **more: Any,
) -> list[Adapted]:
    model, weights = network(method)
    protection = Protection(settings, clip_norm, SecretNoise(key_of(key)), 0.02, **more)
    states, observers = [start(method)] * len(clients), [observed] * len(clients)
    return adapt_privately(model, weights, clients, states, protection, objective(), observers)


def observed(step: int, state: PrivateState) -> dict[str, float]:
    [own] = state.parts.values()
    return {"sum": float(own.double().sum())}


def part(adapted: Adapted) -> Tensor:
    [own] = adapted.state.parts.values()
    return own


def network_to_train(method: str) -> tuple[FlatModel, str, Tensor]:
    """A network with its weights, the name of the part that a new client trains, and the part."""
    model, weights = network(method)
    model.load(weights)
    train_only(model.net, model.layout, ())
    [name] = METHODS[method].adapt_parts
    return model, name, model.weights[model.layout.parts[name]]


@pytest.mark.parametrize("method", ["fedavg_ft", "shared_rep"])
def test_an_image_moves_the_gradients_of_others_by_their_rounding_alone(method: str) -> None:
    """Two images without a third, and each by itself: less than a thousandth of a gradient."""
    model, name, own = network_to_train(method)
    gradients = PartGradients(model, objective(), name)

    def of(index: list[int]) -> Tensor:
        shown = client(7).chosen(torch.tensor(index))
        return torch.cat([gradients(own, piece) for piece in pieces(shown, 2, 8, 1, objective())])

    whole = of([0, 1, 2])
    for some in ([0, 1], [0]):
        moved = (of(some) - whole[: len(some)]).sum(0).norm()
        assert moved < 1e-3 * whole.norm(dim=1).min()


@pytest.mark.parametrize("method", ["fedavg_ft", "lora"])
def test_gradients_of_single_images_round_little_in_bf16(method: str) -> None:
    """Also those of attention, whose fused form torch.func does not know."""
    model, name, own = network_to_train(method)
    found: list[Tensor] = []
    for precision in ("float32", "bf16"):
        gradients = PartGradients(model, replace(objective(), precision=precision), name)
        [piece] = pieces(client(3), 2, 8, 1, objective())
        found.append(gradients(own, piece))
    assert found[1].dtype == torch.float32
    assert 0 < (found[1] - found[0]).norm() < 0.1 * found[0].norm()


@pytest.mark.parametrize("mechanism", ["dp_sgd", "one_release"])
def test_the_result_is_a_function_of_images_and_key(mechanism: str) -> None:
    settings = PrivateAdaptConfig(epsilon=4.0, steps=4, draws=3, mechanism=mechanism)
    [first], [again] = fit([client(7)], settings), fit([client(7)], settings)
    assert torch.equal(part(first), part(again))
    assert first.curve == again.curve
    [other] = fit([client(7)], settings, key="another")
    assert (part(first) - part(other)).abs().min() > 1e-4
    assert all(point.train_loss is point.val_loss is None for point in first.curve)


@pytest.mark.parametrize("settings", [LOUD, SAMPLING])
@pytest.mark.usefixtures("float64")
def test_together_is_one_by_one(settings: PrivateAdaptConfig) -> None:
    """Also where steps sample images: the sample depends on the key, the client and the step."""
    clients = [client(client_id) for client_id in SIZES]
    for together, one in zip(fit(clients, settings), clients, strict=True):
        [alone] = fit([one], settings)
        torch.testing.assert_close(part(together), part(alone), rtol=1e-6, atol=1e-6)
        assert together.kept_epoch == alone.kept_epoch == 4


@pytest.mark.parametrize("method", ["spire", "fedavg_ft", "shared_rep"])
def test_a_step_that_samples_no_image_releases_its_noise_alone(method: str) -> None:
    """The first step has none of the twelve, and the second has one."""
    settings, key = replace(SAMPLING, batch_size=1), SecretNoise(key_of("key"))
    rate = settings.sampling_rate(12)
    sampled = [int(key.chosen(12, rate, "adapt_sampling", 7, step).sum()) for step in (1, 2)]
    assert sampled == [0, 1]
    others = replace(client(7), images=255 - client(7).images)

    def fitted(own: ClientContext, steps: int) -> Tensor:
        return part(*fit([own], replace(settings, steps=steps), method))

    assert torch.equal(fitted(client(7), 1), fitted(others, 1))
    assert not torch.equal(fitted(client(7), 1), fitted(client(7), 2))
    assert not torch.equal(fitted(client(7), 2), fitted(others, 2))


class Silence(SecretNoise):
    """A key whose noise is zero."""

    def normals(self, size: int, purpose: str, *counters: int) -> np.ndarray:
        return np.zeros(size)


@pytest.mark.usefixtures("float64")
def test_without_noise_and_clipping_it_is_adam_on_whole_batches() -> None:
    model, weights = network()
    protection = Protection(LOUD, 10.0, Silence(key_of("key")), 0.02)
    more = (protection, objective(), [observed])
    [found] = adapt_privately(model, weights, [client(7)], [start()], *more)
    torch.testing.assert_close(part(found), plain_descent(client(7)), rtol=1e-5, atol=1e-5)


def plain_descent(own: ClientContext) -> Tensor:
    """Return the averaged iterate of Adam on the mean loss of all images."""
    model, weights = network()
    model.load(weights)
    train_only(model.net, model.layout, ())
    emb = nn.Parameter(start().parts["client_emb"].to(torch.get_default_dtype()).clone())
    optimizer = Adam({"e": emb}, {"e": 0.02}, {})
    average = emb.detach().clone()
    for step in range(1, LOUD.steps + 1):
        [emb.grad] = torch.autograd.grad(image_losses(model, own, emb, step).mean(), emb)
        optimizer.step()
        average += (AVERAGING + 1) / (step + AVERAGING) * (emb.detach() - average)
    return average


@pytest.mark.usefixtures("float64")
def test_without_noise_several_embeddings_are_hard_em_on_whole_batches() -> None:
    """Each image moves the embedding of its lowest loss, at its own draws, and counts for it."""
    own, model, weights = client(7), *network()
    embs = torch.randn(2, 5, generator=torch_generator(3, "embs")).double()
    begun = [PrivateState({"client_emb": table_of(embs)})]
    protection = Protection(LOUD, 10.0, Silence(key_of("key")), 0.02, num_embs=2)
    [found] = adapt_privately(model, weights, [own], begun, protection, objective(), [observed])

    def losses_at(step: int) -> Tensor:  # (n, 2)
        return torch.stack([image_losses(model, own, emb, step) for emb in embs], 1)

    embs = nn.Parameter(embs)
    optimizer, average = Adam({"e": embs}, {"e": 0.02}, {}), embs.detach().clone()
    for step in range(1, LOUD.steps + 1):
        [embs.grad] = torch.autograd.grad(losses_at(step).amin(1).mean(), embs)
        optimizer.step()
        average += (AVERAGING + 1) / (step + AVERAGING) * (embs.detach() - average)
    embs = average
    steps = range(LOUD.steps + 1, LOUD.steps + NUM_COUNTS + 1)
    counts = sum(torch.bincount(losses_at(step).argmin(1), minlength=2) for step in steps)
    shares = (counts / NUM_COUNTS + PRIOR) / (12 + 2 * PRIOR)
    assert 0 < float(shares.min()) < 0.5
    expected = torch.cat([average, shares[:, None]], 1)
    torch.testing.assert_close(part(found), expected, rtol=1e-5, atol=1e-5)


def image_losses(model: FlatModel, own: ClientContext, emb: Tensor, step: int) -> Tensor:
    """Return each image's mean loss (n,) with an embedding, at a step's draws."""
    [(images, t, eps, none)] = pieces(own, LOUD.draws, 99, step, objective())
    x0 = to_float(images).repeat_interleave(LOUD.draws, 0)
    shown = whole_draws(t.flatten(), eps.flatten(0, 1), none.repeat(LOUD.draws, 1))
    losses = objective().losses(model.net, emb.expand(len(x0), -1), x0, shown)
    return losses.view(-1, LOUD.draws).mean(1)


@pytest.mark.parametrize("num_embs", [1, 3])
def test_an_images_gradient_depends_on_no_other_image(num_embs: int) -> None:
    """Of all embeddings, of which it moves one: the bound of a sum is that of one gradient."""
    model, weights = network()
    model.load(weights)
    train_only(model.net, model.layout, ())
    embs = torch.randn(num_embs * 5, generator=torch_generator(3, "embs"))

    def of(index: list[int]) -> Tensor:
        [piece] = pieces(client(7).chosen(torch.tensor(index)), 2, 99, 1, objective())
        return embedding_gradients(model, objective(), embs.expand(len(index), -1), piece)

    whole = of(list(range(12)))
    moved = whole.unflatten(1, (num_embs, 5)).any(2)
    assert (moved.sum(1) == 1).all()
    assert moved.any(0).sum() > 1 or num_embs == 1
    for i in range(12):
        torch.testing.assert_close(of([i])[0], whole[i], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [99, 2])
def test_an_images_draws_are_its_own_whichever_others_a_step_has(size: int) -> None:
    """So the sum of a sampled step, too, changes by one clipped gradient with one image more."""
    model, weights = network()
    model.load(weights)
    train_only(model.net, model.layout, ())
    whole, clip_norm = client(7), 0.01

    def clipped_sum(index: list[int]) -> Tensor:
        total = torch.zeros(5, dtype=torch.float64)
        for piece in pieces(
            whole.chosen(torch.tensor(index, dtype=torch.int64)), 3, size, 1, objective()
        ):
            embs = start().parts["client_emb"].expand(len(piece.images), -1)
            rows = embedding_gradients(model, objective(), embs, piece).double()
            total += (rows * (clip_norm / rows.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)
        return total

    for index in ([0, 3, 4, 9], [5], list(range(12))):
        for left_out in index:
            others = [i for i in index if i != left_out]
            moved = (clipped_sum(index) - clipped_sum(others)).norm()
            assert moved <= clip_norm * 1.001
    assert (
        list(pieces(whole.chosen(torch.tensor([], dtype=torch.int64)), 3, size, 1, objective()))
        == []
    )


@pytest.mark.parametrize(
    ("method", "name"),
    [("fedavg_ft", "body"), ("shared_rep", "local"), ("time_split", "local")],
)
def test_gradients_of_a_part_are_those_of_single_images(method: str, name: str) -> None:
    model, weights = network(method)
    model.load(weights)
    own, at = client(3), model.layout.parts[name]
    [piece] = pieces(own, 3, 99, 1, objective())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of operations that torch.func computes one by one
        found = PartGradients(model, objective(), name)(model.weights[at], piece)
    train_only(model.net, model.layout, (name,))
    for i, image in enumerate(to_float(own.images)):
        model.grads.zero_()
        shown = whole_draws(piece.t[i], piece.eps[i], piece.tokens[i].expand(3, -1))
        objective().losses(model.net, None, image.expand(3, -1, -1, -1), shown).mean().backward()
        scale = float(model.grads[at].abs().max())
        torch.testing.assert_close(found[i], model.grads[at], rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("mechanism", ["dp_sgd", "one_release"])
def test_a_private_fit_reads_captions(mechanism: str) -> None:
    model, weights = network(config=replace(MODEL, text="words", words=("a", "b")))
    settings = replace(SAMPLING, mechanism=mechanism)
    protection = Protection(settings, 0.05, SecretNoise(key_of("key")), 0.02)

    def fitted(word: int) -> Tensor:
        own = replace(client(7), tokens=torch.full((12, 1), word))
        more = (protection, objective(), [observed])
        return part(*adapt_privately(model, weights, [own], [start()], *more))

    assert torch.equal(fitted(1), fitted(1))
    assert (fitted(1) - fitted(2)).abs().max() > 1e-6


@pytest.mark.parametrize("method", ["fedavg_ft", "shared_rep", "local"])
def test_a_larger_part_is_fitted_alone_and_by_its_own_rows(method: str) -> None:
    model, weights = network(method)
    protection = Protection(LOUD, 0.05, SecretNoise(key_of("key")), 1e-3, eval_every=3)
    [found] = adapt_privately(
        model, weights, [client(3)], [PrivateState()], protection, objective(), [observed]
    )
    [name] = METHODS[method].adapt_parts
    assert set(found.state.parts) == {name}
    for other, at in model.layout.parts.items():
        assert torch.equal(model.weights[at], weights[at]) == (other != name) or at.start == at.stop
    assert torch.equal(model.weights[model.layout.parts[name]], part(found))
    assert [p.epoch for p in found.curve if p.observed is not None] == [0, 3, 4]


def test_an_images_own_embedding_depends_on_no_other_image() -> None:
    """What bounds its share of the mean: all others are fitted as if it were not there."""
    model, weights = network()
    model.load(weights)
    train_only(model.net, model.layout, ())
    other = client(7).images.clone()
    other[4] = 255 - other[4]
    moved = [
        offsets(model, objective(), ClientContext(7, 2, images), torch.zeros(5), LOUD, 0.02)
        for images in (client(7).images, other)
    ]
    changed = (moved[0] - moved[1]).norm(dim=1) > 1e-6
    assert changed.tolist() == [i == 4 for i in range(12)]


def test_the_clip_norm_comes_from_images_of_the_backbone_alone() -> None:
    model, weights = network()
    settings = PrivateAdaptConfig(epsilon=4.0, draws=3)
    few = TrainingObjective(Diffusion.of(DiffusionConfig(sample_steps=2)))
    nobody = generated_client(model, weights, few, (1, 8, 8), 0)
    assert nobody.images.shape == (NUM_IMAGES, 1, 8, 8)
    again = generated_client(model, weights, few, (1, 8, 8), 0)
    assert torch.equal(nobody.images, again.images)
    found = public_clip_norm(model, weights, nobody, start(), settings, few, 0.02)
    [piece] = pieces(nobody, 3, 99, 0, few)
    embs = start().parts["client_emb"].expand(NUM_IMAGES, -1)
    norms = embedding_gradients(model, few, embs, piece).double().norm(dim=1)
    assert found == pytest.approx(float(norms.median()), rel=1e-6)


def test_a_backbone_that_has_learned_nothing_gives_no_clip_norm() -> None:
    model, _ = network()
    weights = torch.zeros(model.layout.size)
    few = TrainingObjective(Diffusion.of(DiffusionConfig(sample_steps=2)))
    nobody = generated_client(model, weights, few, (1, 8, 8), 0)
    with pytest.raises(ConfigError, match=r"^expected a positive clip norm.*clip_norm$"):
        public_clip_norm(model, weights, nobody, start(), LOUD, few, 0.02)

"""Adaptation of new clients: what may change, what may not, and which epoch is kept."""

from dataclasses import replace

import pytest
import torch

from spire_core.adaptation.adapt import (
    PATIENCE,
    Observe,
    adapt_client,
    epoch_streams,
    num_trained,
)
from spire_core.adaptation.set_aside import split_validation
from spire_core.config.adapt import AdaptConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.errors import DataError
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import METHODS
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.rng import torch_generator
from spire_core.training.adam import Adam
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, fit, trained_leaves

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(), cond_dim=16)
OBJECTIVE = TrainingObjective(Diffusion.of(DiffusionConfig()))
IMAGES = torch.randint(
    0, 256, (20, 1, 8, 8), generator=torch_generator(0, "images"), dtype=torch.uint8
)


def trained_weights(method: str) -> torch.Tensor:
    """Weights whose zero-initialised layers are not zero, so that every part has a gradient."""
    flat = initial_weights(MODEL, MethodConfig(name=method), 1, seed=1)
    return flat + 0.05 * torch.randn(flat.shape, generator=torch_generator(1, "perturb"))


def adapt(method: str, observe: Observe | None = None, images: torch.Tensor = IMAGES, **settings):
    model = FlatModel(MODEL, MethodConfig(name=method), 1)
    parts = {"client_emb": torch.zeros(MODEL.d_emb)} if METHODS[method].has_embedding else {}
    seen = []
    result = adapt_client(
        model,
        trained_weights(method),
        ClientContext(7, 2, images),
        PrivateState(parts),
        AdaptConfig(**{"epochs": 3, "batch_size": 8, **settings}),
        OBJECTIVE,
        observe or (lambda epoch, *_: seen.append(epoch) or {"own_kid": 0.0}),
    )
    return model, result, seen


def test_spire_changes_nothing_but_the_new_embedding() -> None:
    model, result, _ = adapt("spire")
    assert torch.equal(model.weights, trained_weights("spire"))
    assert set(result.state.parts) == {"client_emb"}
    assert result.state.parts["client_emb"].abs().min() > 0


@pytest.mark.parametrize("method", ["fedavg_ft", "shared_rep", "local"])
def test_other_methods_change_their_own_parts_alone(method: str) -> None:
    model, result, _ = adapt(method)
    before = trained_weights(method)
    for part, at in model.layout.parts.items():
        changed = not torch.equal(model.weights[at], before[at])
        assert changed == (part in METHODS[method].adapt_parts), part
    assert set(result.state.parts) == set(METHODS[method].adapt_parts)


def test_images_with_their_channels_last_in_memory_are_fitted_alike() -> None:
    """Torch's normalisation would end the process where the layers before it are frozen."""
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    model = FlatModel(ModelConfig(width=32), MethodConfig(name="shared_rep"), 3)
    weights = torch.randn(model.layout.size, generator=torch_generator(0, "weights")) / 50
    config, losses = AdaptConfig(epochs=1), []
    for own in (images, images.contiguous(memory_format=torch.channels_last)):
        client = ClientContext(1, 0, own)
        more = (PrivateState(), config, OBJECTIVE, lambda *_: {})
        result = adapt_client(model, weights, client, *more)
        losses.append(result.curve[-1].train_loss)
    assert losses[0] == losses[1]


def test_fedavg_does_not_adapt_and_sets_no_image_aside() -> None:
    model, result, seen = adapt("fedavg", images=IMAGES[:1], early_stopping=True)
    assert torch.equal(model.weights, trained_weights("fedavg"))
    assert (result.state, result.kept_epoch, seen) == (PrivateState(), 0, [0])
    assert [point.val_loss for point in result.curve] == [None]


def test_adapted_state_is_the_model_that_was_trained() -> None:
    model, result, _ = adapt("fedavg_ft")
    after = model.weights.clone()
    load_client(model, trained_weights("fedavg_ft"), result.state)
    assert torch.equal(model.weights, after)


def test_observed_before_every_so_often_and_last() -> None:
    assert adapt("spire", epochs=5, eval_every=2)[2] == [0, 2, 4, 5]


def test_early_stopping_keeps_the_best_epoch() -> None:
    _, result, seen = adapt("fedavg_ft", epochs=30, lr=0.01, early_stopping=True)
    losses = {p.epoch: p.val_loss for p in result.curve if p.val_loss is not None}
    assert result.kept_epoch == min(losses, key=lambda e: losses[e]) > 0
    assert seen[-1] == result.kept_epoch + PATIENCE < 30


@pytest.mark.parametrize(("method", "lr"), [("spire", 1.0), ("fedavg_ft", 100.0)])
def test_early_stopping_keeps_the_start_where_every_epoch_is_worse(method: str, lr: float) -> None:
    _, result, _ = adapt(method, epochs=30, lr=lr, early_stopping=True)
    losses = [p.val_loss for p in result.curve if p.val_loss is not None]
    assert len(losses) == 1 + PATIENCE
    assert losses[0] == min(losses)
    assert result.kept_epoch == 0
    weights = trained_weights(method)
    parts = FlatModel(MODEL, MethodConfig(name=method), 1).layout.parts
    for part, value in result.state.parts.items():
        start = torch.zeros(MODEL.d_emb) if part == "client_emb" else weights[parts[part]]
        assert torch.equal(value, start)


@pytest.mark.parametrize(("method", "part"), [("spire", "client_emb"), ("fedavg_ft", "body")])
def test_the_mean_of_the_last_iterates_is_observed_and_kept(method: str, part: str) -> None:
    """One step an epoch. The iterates themselves are those without the mean."""

    def fitted(average: float) -> tuple[list[torch.Tensor], torch.Tensor]:
        seen = list[torch.Tensor]()

        def observe(_: int, state: PrivateState) -> dict[str, float]:
            seen.append(state.parts[part])
            return {}

        settings = {"epochs": 4, "batch_size": 20, "average": average}
        return seen, adapt(method, observe, **settings)[1].state.parts[part]

    (iterates, last), (seen, kept) = fitted(0.0), fitted(0.5)
    assert torch.equal(last, iterates[4])
    for epoch in range(4):
        assert torch.equal(seen[epoch], iterates[epoch])
    assert torch.equal(seen[4], kept)
    torch.testing.assert_close(kept, (iterates[3] + iterates[4]) / 2, rtol=1e-5, atol=1e-7)
    assert not torch.equal(kept, last)


@pytest.mark.parametrize("method", ["fedavg_ft", "shared_rep"])
def test_without_a_pull_it_is_plain_training(method: str) -> None:
    """Adam on the denoising loss alone, bit for bit."""
    _, result, _ = adapt(method, lr=0.01, pull=0.0)
    model, client = FlatModel(MODEL, MethodConfig(name=method), 1), ClientContext(7, 2, IMAGES)
    model.load(trained_weights(method))
    [part] = METHODS[method].adapt_parts
    optimizer = Adam(trained_leaves(model, None, (part,)), {part: 0.01}, {})
    for epoch in (1, 2, 3):
        batches, noise = epoch_streams(client, AdaptConfig(batch_size=8), epoch)
        fit(model, None, batches, optimizer, OBJECTIVE, noise)
    assert torch.equal(result.state.parts[part], model.weights[model.layout.parts[part]])


@pytest.mark.parametrize("method", ["fedavg_ft", "shared_rep"])
def test_a_pull_keeps_a_fit_near_the_shared_weights(method: str) -> None:
    weights, moved = trained_weights(method), []
    for pull in (0.0, 1.0, 1000.0):
        model, _, _ = adapt(method, lr=0.01, epochs=10, pull=pull)
        moved.append(float((model.weights - weights).norm()))
    assert moved[0] > moved[1] > moved[2] > 0
    assert moved[2] < moved[0] / 3


def test_validation_split_is_disjoint_and_needs_two_images() -> None:
    train, val = split_validation(1, len(IMAGES), 0)
    assert (len(train), len(val)) == (16, 4)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(IMAGES)))
    with pytest.raises(DataError, match="at least 2 images"):
        split_validation(1, 1, 0)


def test_a_client_that_will_choose_its_guidance_fits_what_it_did_not_set_aside() -> None:
    _, chooses, _ = adapt("spire", lr=0.1, guidance=(1.0, 2.0))
    train, _ = split_validation(7, len(IMAGES), 2)
    _, fewer, _ = adapt("spire", lr=0.1, images=IMAGES[train])
    _, whole, _ = adapt("spire", lr=0.1)
    found, same, other = (one.state.parts["client_emb"] for one in (chooses, fewer, whole))
    assert torch.equal(found, same)
    assert not torch.equal(found, other)
    assert [point.val_loss for point in chooses.curve] == [None] * len(chooses.curve)


def test_number_of_trained_parameters() -> None:
    network = replace(MODEL, attention=(0,))
    counts = {
        name: num_trained(FlatModel(network, MethodConfig(name=name), 1), MODEL.d_emb)
        for name in METHODS
    }
    total = FlatModel(network, MethodConfig(name="fedavg_ft"), 1).layout.size
    assert counts["spire"] == counts["retrofit"] == MODEL.d_emb
    assert 0 < counts["lora"] < total
    assert 0 < counts["bias"] < counts["diffit"] < total
    assert counts["fedavg_ft"] == counts["local"] == total
    assert counts["fedavg"] == 0
    assert 0 < counts["shared_rep"] < total


@pytest.mark.parametrize(("client_id", "epoch"), [(5, 2), (6, 1)])
def test_every_epoch_of_every_client_has_an_order_and_noise_of_its_own(
    client_id: int, epoch: int
) -> None:
    def streams(client_id: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        client = ClientContext(client_id, 0, torch.arange(20))
        order, noise = epoch_streams(client, AdaptConfig(batch_size=8), epoch)
        return torch.cat([batch.images for batch in order]), torch.randn(4, generator=noise)

    for first, other in zip(streams(5, 1), streams(client_id, epoch), strict=True):
        assert not torch.equal(first, other)

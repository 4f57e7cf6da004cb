"""How fast a client trains, part by part and round by round, and what it is shown with."""

import numpy as np
import pytest
import torch

from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.client import start_client, train_client
from spire_core.federated.messages import AdamMoments, Broadcast, RoundPlan
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.methods import BODY, CLIENT_EMB, EMB_PROJ, LOCAL, MODULATION
from spire_core.network.flat_model import FlatModel
from spire_core.rng import torch_generator
from spire_core.training.adam import PartMoments
from spire_core.training.batches import Batch, batches
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, to_float, training_step

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)
ROOT = 0.5**0.5  # the cosine of an eighth of a turn


def objective(emb_dropout: float) -> TrainingObjective:
    return TrainingObjective(Diffusion.of(DiffusionConfig()), emb_dropout)


def images() -> torch.Tensor:
    generator = torch_generator(0, "test_images")
    return torch.randint(0, 256, (8, 1, 8, 8), generator=generator, dtype=torch.uint8)


def client() -> ClientContext:
    return ClientContext(1, 0, images())


def model_of(method: str) -> FlatModel:
    """A network without the zeros with which one begins: every part has a gradient."""
    model = FlatModel(MODEL, MethodConfig(name=method), image_channels=1)
    model.load(torch.randn(model.layout.size, generator=torch_generator(0, "weights")) / 10)
    return model


@pytest.mark.parametrize(
    ("schedule", "warmup_rounds", "expected"),
    [
        ("constant", 0, {0: 1.0, 7: 1.0}),
        ("constant", 4, {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 4: 1.0, 11: 1.0}),
        ("cosine", 0, {0: 1.0, 3: (1 + ROOT) / 2, 6: 0.5, 9: (1 - ROOT) / 2}),
        ("cosine", 4, {0: 0.25, 3: 1.0, 4: 1.0, 6: (1 + ROOT) / 2, 8: 0.5, 10: (1 - ROOT) / 2}),
        ("cosine", 20, {0: 0.05, 11: 0.6}),  # the run ends as it warms up
    ],
)
def test_rates_warm_up_and_then_stay_or_fall(
    schedule: str, warmup_rounds: int, expected: dict[int, float]
) -> None:
    config = ClientConfig(lr_schedule=schedule, warmup_rounds=warmup_rounds)
    found = {round_idx: config.lr_scale(round_idx, num_rounds=12) for round_idx in expected}
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("method", "part"), [("spire", EMB_PROJ), ("shared_rep", LOCAL)])
def test_a_first_step_is_as_long_as_the_rate_of_its_part(method: str, part: str) -> None:
    """Adam's first step moves every weight by its rate, whatever the gradient."""
    config = ClientConfig(batch_size=8, lr=0.01, emb_lr=0.2, emb_proj_lr_factor=3.0)
    model = model_of(method)
    broadcast = Broadcast(model.weights.numpy().copy())
    state = new_private_state(model, config, MODEL.d_emb, 0, 1)
    plan = RoundPlan(0, lr_scale=0.25, shares_local=True, tau=1)
    update, after = train_client(model, broadcast, client(), state, config, objective(0.0), plan)
    moved = np.abs(update.weights - broadcast.weights)
    lengths = {name: moved[at].max() for name, at in model.layout.parts.items() if moved[at].size}
    if method == "spire":
        lengths[CLIENT_EMB] = float((after.parts[CLIENT_EMB] - state.parts[CLIENT_EMB]).abs().max())
    by_hand = {BODY: 0.0025, MODULATION: 0.0025, EMB_PROJ: 0.0075, LOCAL: 0.0025, CLIENT_EMB: 0.05}
    assert part in lengths
    assert lengths == pytest.approx({name: by_hand[name] for name in lengths}, rel=1e-3)


@pytest.mark.parametrize(
    ("has_embedding", "emb_dropout", "share"),
    [(True, 0.3, 0.7), (True, 0.0, 1.0), (False, 0.3, 1.0)],
)
def test_the_share_of_examples_that_keep_their_embedding(
    has_embedding: bool, emb_dropout: float, share: float
) -> None:
    shape = torch.Size((10_000, 1, 1, 1))
    stream = torch_generator(0, "noise")
    client_emb = torch.zeros(MODEL.d_emb) if has_embedding else None
    kept = objective(emb_dropout).draw_noise(shape, client_emb, stream).kept
    assert kept.shape == (10_000, 1)
    spread = (share * (1 - share) / 10_000) ** 0.5
    assert float(kept.double().mean()) == pytest.approx(share, abs=4 * spread)


def test_an_example_without_its_embedding_trains_the_unconditional_network() -> None:
    model = model_of("spire")
    x0 = to_float(images())

    def loss(client_emb: torch.Tensor, emb_dropout: float) -> torch.Tensor:
        return training_step(
            model, client_emb, Batch(x0), objective(emb_dropout), torch_generator(0, "n")
        )

    own = torch.nn.Parameter(torch.ones(MODEL.d_emb))
    dropped = loss(own, emb_dropout=1.0)
    assert own.grad is not None
    assert not own.grad.any()
    assert torch.equal(dropped, loss(torch.zeros(MODEL.d_emb), emb_dropout=0.0))
    assert not torch.equal(dropped, loss(own, emb_dropout=0.0))
    assert own.grad.any()


def test_every_pass_over_the_images_is_shuffled_anew() -> None:
    numbers = torch.arange(20)
    seen = torch.cat(list(batches(numbers, 8, 6, torch_generator(0, "b"))))  # two passes in threes
    assert seen[:20].sort().values.tolist() == seen[20:].sort().values.tolist() == list(range(20))
    assert seen[:20].tolist() != seen[20:].tolist()


def test_a_client_goes_on_with_its_own_moments_of_its_local_layers() -> None:
    """Where the body's moments are averaged, those of layers that stay with the client are not."""
    model = model_of("shared_rep")
    ones = np.ones(model.layout.size, np.float32)
    moments = AdamMoments(ones, ones, np.full(4, 6.0, np.float32))
    averaged = Broadcast(0 * ones, moments)
    layers = torch.ones(model.layout.part_size(LOCAL))
    moments = PartMoments(9 * layers, 9 * layers, torch.tensor(11.0))
    own = PrivateState({LOCAL: layers}, {LOCAL: moments})
    plan = RoundPlan(5, lr_scale=1.0, shares_local=False, tau=1)
    config = ClientConfig(batch_size=8, opt_state="average")
    run = start_client(model, averaged, client(), own, config, plan)
    for part, step, moment in ((LOCAL, 11.0, 9.0), (BODY, 6.0, 1.0)):
        assert float(run.moments[part].step) == step
        assert (run.moments[part].exp_avg == moment).all()

"""Several embeddings of a client: which image is shown with which, and how they are weighed."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from spire_core.adaptation.adapt import Adapted, adapt_client, adapt_embeddings
from spire_core.config.adapt import AdaptConfig
from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.client import train_client
from spire_core.federated.client_group import train_group
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.network.grouped_layers import FlatGroup
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective
from spire_core.training.heldout import heldout_bits, heldout_losses
from spire_core.training.several import (
    drawn,
    rows_by_class,
    rows_by_cluster,
    table_of,
    with_weights,
)

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1,), attention=(), cond_dim=16)
SPIRE = MethodConfig(name="spire")
OBJECTIVE = TrainingObjective(Diffusion.of(DiffusionConfig()))


def client_of(
    shades: Sequence[int], client_id: int = 0, rows: Tensor | None = None
) -> ClientContext:
    """Images of one shade each, with a little noise."""
    noise = torch.randint(0, 9, (len(shades), 1, 8, 8), generator=torch_generator(client_id, "i"))
    images = (torch.tensor(shades).view(-1, 1, 1, 1) + noise).to(torch.uint8)
    return ClientContext(client_id, 0, images, rows=rows)


def trained() -> tuple[FlatModel, Tensor]:
    """A network in which an embedding makes a difference."""
    model, weights = FlatModel(MODEL, SPIRE, 1), initial_weights(MODEL, SPIRE, 1, 0)
    weights += 0.05 * torch.randn(weights.shape, generator=torch_generator(1, "more"))
    model.load(weights)
    model.net.eval()
    return model, weights


def table(num: int = 2) -> Tensor:
    return table_of(torch.randn(num, MODEL.d_emb, generator=torch_generator(2, "embs")))


def test_images_have_the_row_of_their_cluster_or_class() -> None:
    found = rows_by_cluster(client_of([20] * 5 + [200] * 3), 2)
    assert found.tolist() in ([0] * 5 + [1] * 3, [1] * 5 + [0] * 3)
    assert rows_by_cluster(client_of([20, 200]), 4).tolist() == [0, 1]
    labels = np.array([7, 7, 7, 2, 2, 5, 9])
    assert rows_by_class(labels, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_clusters_are_the_tightest_of_several_starts() -> None:
    """From one start, k-means often ends with two groups in one cluster and one group in two."""
    shades = [30 * i for i in range(7) for _ in range(3)]
    for client_id in range(20):
        rows = rows_by_cluster(client_of(shades, client_id), 7).view(7, 3)
        assert rows[:, 0].unique().numel() == 7
        assert torch.equal(rows, rows[:, :1].expand(-1, 3))


def test_weights_are_shares_with_half_an_image_more_and_decide_what_is_drawn() -> None:
    rows = torch.tensor([0] * 6 + [2] * 3)
    weighed = with_weights(table(3), rows)
    torch.testing.assert_close(weighed[:, -1], torch.tensor([6.5, 0.5, 3.5]) / 10.5)
    assert torch.equal(weighed[:, :-1], table(3)[:, :-1])
    embs = drawn(weighed, 4000, torch_generator(0, "drawn"))
    counts = [(embs == row).all(1).double().mean() for row in weighed[:, :-1]]
    torch.testing.assert_close(torch.stack(counts).float(), weighed[:, -1], atol=0.03, rtol=0)
    single = table_of(table(3)[:1, :-1])
    assert single.shape == (MODEL.d_emb,)
    assert torch.equal(drawn(single, 2, torch_generator(0, "drawn")), single.repeat(2, 1))


@pytest.mark.parametrize("is_together", [False, True])
def test_a_row_is_fitted_to_its_own_images_alone(is_together: bool) -> None:
    """If all images belong to one row, the fit is that of a single embedding."""

    def fitted(start: Tensor, rows: Tensor | None) -> Tensor:
        model, weights = trained()
        client = client_of([20] * 4 + [200] * 4, rows=rows)
        config = AdaptConfig(epochs=3, lr=0.05, batch_size=4)
        state, fit = PrivateState({CLIENT_EMB: start}), (config, OBJECTIVE)
        adapted: Adapted
        if is_together:
            [adapted] = adapt_embeddings(model, weights, [client], [state], *fit, [lambda *_: {}])
        else:
            adapted = adapt_client(model, weights, client, state, *fit, lambda *_: {})
        return adapted.state.parts[CLIENT_EMB]

    single = fitted(torch.zeros(MODEL.d_emb), None)
    both = fitted(table_of(torch.zeros(2, MODEL.d_emb)), torch.ones(8, dtype=torch.long))
    assert torch.equal(both[1, :-1], single)
    assert not both[0, :-1].any()
    torch.testing.assert_close(both[:, -1], torch.tensor([0.5, 8.5]) / 9)
    apart = fitted(table_of(torch.zeros(2, MODEL.d_emb)), None)
    assert not torch.allclose(apart[0, :-1], apart[1, :-1], atol=0.01)


def test_a_client_that_trains_on_keeps_to_its_rows() -> None:
    """Clusters would be in another order than its embeddings."""
    model, weights = trained()
    rows = torch.tensor([0, 1] * 4)
    start = PrivateState({CLIENT_EMB: table()}, rows=rows)
    client, config = client_of([20] * 6 + [200] * 2), AdaptConfig(epochs=1, lr=1e-6)
    found = adapt_client(model, weights, client, start, config, OBJECTIVE, lambda *_: {})
    torch.testing.assert_close(found.state.parts[CLIENT_EMB], table(), atol=1e-5, rtol=0)


def test_a_group_trains_as_each_of_its_clients_alone() -> None:
    config, plan = ClientConfig(batch_size=4), RoundPlan(0, 1.0, shares_local=True, tau=3)
    clients = [
        client_of([9] * num + [200] * 3, num, torch.tensor([0] * num + [1] * 3)) for num in (2, 5)
    ]
    model, weights = trained()
    group = FlatGroup(MODEL, SPIRE, 1, 2)
    states = [new_private_state(model, config, 5, 0, c.client_id, 2) for c in clients]
    broadcast, rest = Broadcast(weights.numpy()), (config, OBJECTIVE, plan)
    alone = [
        train_client(model, broadcast, client, state, *rest)
        for client, state in zip(clients, states, strict=True)
    ]
    together = train_group(group, broadcast, clients, states, *rest)
    for before, (update, state), (other, own) in zip(states, together, alone, strict=True):
        np.testing.assert_allclose(update.weights, other.weights, atol=2e-4)
        torch.testing.assert_close(
            state.parts[CLIENT_EMB], own.parts[CLIENT_EMB], atol=1e-3, rtol=0
        )
        assert (state.parts[CLIENT_EMB] - before.parts[CLIENT_EMB])[:, :-1].abs().amin() > 0
        assert torch.equal(state.parts[CLIENT_EMB][:, -1], before.parts[CLIENT_EMB][:, -1])


def test_losses_and_bits_of_a_mixture_are_those_of_its_rows_by_weight() -> None:
    model, _ = trained()
    client, diffusion = client_of(range(0, 200, 20)), OBJECTIVE.diffusion
    both = with_weights(table(), torch.tensor([0] * 4 + [1] * 2))
    shares = both[:, -1].double()
    single = [heldout_losses(model, row, client, diffusion) for row in both[:, :-1]]
    mean = sum(share * own for share, own in zip(shares, single, strict=True))
    torch.testing.assert_close(heldout_losses(model, both, client, diffusion), mean)
    bits = torch.stack([heldout_bits(model, row, client, diffusion) for row in both[:, :-1]], 1)
    rows = torch.tensor([0, 1] * 5)
    told = torch.stack(single, 1)[torch.arange(10), rows]
    torch.testing.assert_close(
        heldout_losses(model, both, client_of(range(0, 200, 20), rows=rows), diffusion), told
    )
    likelihoods = (2.0 ** (-bits * 64)) @ shares
    torch.testing.assert_close(
        heldout_bits(model, both, client, diffusion), -likelihoods.log2() / 64
    )


def test_a_state_keeps_its_rows() -> None:
    state = PrivateState({CLIENT_EMB: table()}, rows=torch.tensor([1, 0]))
    back = PrivateState.from_tensors(state.to_tensors())
    assert back.rows is not None
    assert back.rows.tolist() == [1, 0]
    assert torch.equal(back.parts[CLIENT_EMB], table())

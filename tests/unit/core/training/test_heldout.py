"""Images of several clients drawn as one batch are those that each client draws alone.

Losses of many images taken in pieces are those of one pass.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.generation import client_denoiser, draw, draw_together
from spire_core.diffusion.process import Diffusion
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.rng import torch_generator
from spire_core.training import heldout
from spire_core.training.context import ClientContext
from spire_core.training.heldout import heldout_losses

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)
SHAPE, NUM_IMAGES = (1, 8, 8), 7


def trained_model() -> FlatModel:
    """Weights whose zero-initialised layers are not zero, so that an embedding makes a change."""
    method = MethodConfig(name="spire")
    model = FlatModel(MODEL, method, 1)
    weights = initial_weights(MODEL, method, 1, seed=1)
    model.load(weights + 0.05 * torch.randn(weights.shape, generator=torch_generator(1, "more")))
    model.net.eval()
    return model


def embeddings(count: int) -> Tensor:
    return torch.randn(count, MODEL.d_emb, generator=torch_generator(1, "embeddings"))


def together(embs: Tensor, sampler: str, batch_size: int, guidance: float = 1.0) -> list[Tensor]:
    model = trained_model()
    return draw_together(
        lambda who, _: client_denoiser(model.net, embs[who], guidance),
        Diffusion.of(DiffusionConfig(sampler=sampler, sample_steps=4)),
        SHAPE,
        NUM_IMAGES,
        [torch_generator(2, "sample", client) for client in range(len(embs))],
        batch_size,
    )


def alone(embs: Tensor, client: int, sampler: str, batch_size: int, guidance: float) -> Tensor:
    denoise = client_denoiser(trained_model().net, embs[client], guidance)
    diffusion = Diffusion.of(DiffusionConfig(sampler=sampler, sample_steps=4))
    stream = torch_generator(2, "sample", client)
    return draw(denoise, diffusion, SHAPE, NUM_IMAGES, stream, batch_size)


def test_losses_of_many_images_are_taken_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in one pass, up to rounding: the noise is drawn before."""
    model, emb, diffusion = trained_model(), embeddings(1)[0], Diffusion.of(DiffusionConfig())
    numbers = torch.randint(0, 256, (20, *SHAPE), generator=torch_generator(3, "images"))
    client = ClientContext(5, 0, numbers.to(torch.uint8))
    whole = heldout_losses(model, emb, client, diffusion)
    rows, forward = list[int](), model.net.forward

    def noted(xt: Tensor, *more: Any) -> Tensor:
        rows.append(len(xt))
        return forward(xt, *more)

    monkeypatch.setattr(model.net, "forward", noted)
    monkeypatch.setattr(heldout, "MAX_ROWS", 8)
    found = heldout_losses(model, emb, client, diffusion)
    assert rows == [8, 8, 4]
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("sampler", "batch_size", "guidance"),  # without and with noise on the way
    [
        pytest.param("dpmpp", 3, 1.5, marks=pytest.mark.slow),  # pieces of a client
        ("ddpm", 20, 1.5),  # several clients
    ],
)
def test_who_shares_a_batch_changes_no_clients_images(
    sampler: str, batch_size: int, guidance: float
) -> None:
    embs = embeddings(4)
    drawn = together(embs, sampler, batch_size, guidance)
    for client, images in enumerate(drawn):
        expected = alone(embs, client, sampler, batch_size, guidance)
        torch.testing.assert_close(images, expected, rtol=0, atol=2e-5)
    assert (drawn[0] - drawn[1]).abs().max() > 0.1
    swapped = together(embs[[1, 0, 2, 3]], sampler, batch_size, guidance)
    assert (drawn[0] - swapped[0]).abs().max() > 1e-3  # same noise, another embedding

"""Captions: integers of a vocabulary, encoded, dropped, guided; without text nothing changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.diffusion.process import Diffusion
from spire_core.methods import BODY
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.network.words import caption_tokens
from spire_core.rng import torch_generator
from spire_core.training.adam import Adam
from spire_core.training.batches import client_batches
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, fit, trained_leaves
from spire_core.training.heldout import heldout_losses

WORDS = ("latin", "small", "capital", "letter", "q")
PLAIN = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)
TEXT = replace(PLAIN, text="words", words=WORDS)
SPIRE = MethodConfig("spire")


def model_of(config: ModelConfig) -> FlatModel:
    """A network none of whose weights is zero."""
    model = FlatModel(config, SPIRE, 1)
    weights = initial_weights(config, SPIRE, 1, 0)
    stream = torch_generator(0, "perturb")
    model.load(weights + 0.1 * torch.randn(weights.shape, generator=stream))
    return model


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    stream = torch_generator(0, "inputs")
    xt, emb = torch.randn(3, 1, 8, 8, generator=stream), torch.randn(5, generator=stream)
    return xt, torch.tensor([1, 50, 90]), emb


def test_captions_become_positions_of_words() -> None:
    tokens = caption_tokens(["latin small letter q", "Q", "LATIN capital"], WORDS)
    assert tokens.tolist() == [[1, 2, 4, 5], [5, 0, 0, 0], [1, 3, 0, 0]]
    assert tokens.dtype == np.int64
    assert caption_tokens([], WORDS).shape == (0, 1)


def test_the_other_layers_have_the_same_first_numbers_without_text() -> None:
    networks = [FlatModel(config, SPIRE, 1) for config in (PLAIN, TEXT)]
    plain, text = (
        network.named_tensors(initial_weights(network.net.config, SPIRE, 1, 7))
        for network in networks
    )
    assert {name.split(".")[0] for name in text.keys() - plain.keys()} == {"text"}
    assert all(torch.equal(text[name], tensor) for name, tensor in plain.items())
    body = networks[1].layout.parts[BODY]  # averaged like the rest of the backbone
    for name, start, _ in networks[1].layout.names:
        if name.startswith("text."):
            assert body.start <= start < body.stop


def test_the_order_and_the_padding_of_words_do_not_count() -> None:
    net, (xt, t, emb) = model_of(TEXT).net, inputs()
    rows = [[1, 2, 4, 5], [5, 4, 2, 1], [1, 2, 4, 5]]
    one, other, padded = (torch.tensor(row).expand(3, -1) for row in rows)
    padded = torch.cat([padded, torch.zeros(3, 2, dtype=torch.int64)], dim=1)
    embs = emb.expand(3, -1)
    out = net(xt, t, embs, one)
    torch.testing.assert_close(out, net(xt, t, embs, other))
    torch.testing.assert_close(out, net(xt, t, embs, padded))
    assert not torch.allclose(out, net(xt, t, embs, torch.tensor([[1, 3, 4, 5]]).expand(3, -1)))
    null = net(xt, t, embs)
    torch.testing.assert_close(null, net(xt, t, embs, torch.zeros(3, 4, dtype=torch.int64)))
    assert not torch.allclose(out, null)


def test_captions_are_dropped_independently_of_embeddings() -> None:
    diffusion = Diffusion.of(DiffusionConfig())
    shape, tokens = torch.Size((4000, 1, 1, 1)), torch.ones(4000, 2, dtype=torch.int64)

    def noise(text_dropout: float, tokens: torch.Tensor | None):
        objective = TrainingObjective(diffusion, 0.5, text_dropout=text_dropout)
        return objective.draw_noise(shape, torch.zeros(3), torch_generator(0, "n"), tokens)

    dropped, whole, plain = noise(0.2, tokens), noise(0.0, tokens), noise(0.2, None)
    kept_text = dropped.tokens[:, 0] == 1
    assert torch.equal(dropped.tokens[:, 0], dropped.tokens[:, 1])
    assert float(kept_text.float().mean()) == pytest.approx(0.8, abs=0.03)
    both = (kept_text & dropped.kept[:, 0]).float().mean()
    assert float(both) == pytest.approx(0.8 * 0.5, abs=0.03)
    assert torch.equal(whole.tokens, tokens)
    assert plain.tokens.shape == (4000, 0)
    for other in (whole, plain):  # the other draws are those without text
        assert torch.equal(other.eps, dropped.eps)
        assert torch.equal(other.kept, dropped.kept)


def test_each_guidance_has_its_own_scale() -> None:
    net, (xt, t, emb) = model_of(TEXT).net, inputs()
    tokens = torch.tensor([1, 2, 4, 5])
    embs, rows = emb.expand(3, -1), tokens.expand(3, -1)
    both, client, text = net(xt, t, embs, rows), net(xt, t, embs), net(xt, t, None, rows)
    none = net(xt, t)
    assert torch.equal(client_denoiser(net, emb, 1.0, None, tokens)(xt, t), both)
    for (by_client, by_text), expected in {
        (3.0, 1.0): text + 3 * (both - text),
        (1.0, 3.0): client + 3 * (both - client),
        (2.0, 3.0): both + (both - text) + 2 * (both - client),
    }.items():
        found = client_denoiser(net, emb, by_client, None, tokens, by_text)(xt, t)
        torch.testing.assert_close(found, expected)
    alone = client_denoiser(net, None, 2.0, None, tokens, 3.0)(xt, t)  # the population
    torch.testing.assert_close(alone, none + 3 * (text - none))
    assert torch.equal(client_denoiser(net, emb, 1.0, None, None, 3.0)(xt, t), client)


@pytest.mark.slow
def test_a_network_learns_what_captions_say() -> None:
    """Black images are a q and white ones a letter: with the captions exchanged, loss is high."""
    model, diffusion = FlatModel(TEXT, SPIRE, 1), Diffusion.of(DiffusionConfig())
    model.load(initial_weights(TEXT, SPIRE, 1, 0))
    images = torch.zeros(16, 1, 8, 8, dtype=torch.uint8)
    images[8:] = 255
    tokens = torch.tensor([[5]] * 8 + [[4]] * 8)
    client = ClientContext(1, 0, images, tokens)
    objective = TrainingObjective(diffusion, text_dropout=0.1)
    steps = client_batches(client, 16, 120, torch_generator(0, "b"))
    optimizer = Adam(trained_leaves(model, None, (BODY,)), {BODY: 3e-3}, {})
    fit(model, None, steps, optimizer, objective, torch_generator(0, "n"))

    def loss(tokens: torch.Tensor) -> float:
        return float(heldout_losses(model, None, replace(client, tokens=tokens), diffusion).mean())

    assert 3 * loss(tokens) < loss(tokens.flip(0))
    assert loss(tokens) < loss(0 * tokens) < loss(tokens.flip(0))
    black = client_denoiser(model.net, None, tokens=torch.tensor([5]))
    white = client_denoiser(model.net, None, tokens=torch.tensor([4]))
    shades = [
        float(draw(denoise, diffusion, (1, 8, 8), 8, torch_generator(0, "s")).mean())
        for denoise in (black, white)
    ]
    assert shades[0] < -0.5
    assert shades[1] > 0.5

"""The scores of drawn images for clients of a few images, worked out by hand."""

import numpy as np
import pytest
import torch

from pipeline.clients.client_data import ClientData
from pipeline.clients.text_scores import text_scores
from spire_core.partition.split import ClientSplit


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def client_of(images: np.ndarray, num_shown: int) -> ClientData:
    """A client that shows the first images and is asked for the others; no caption repeats."""
    split = ClientSplit(0, np.arange(num_shown), np.arange(num_shown, len(images)))
    tokens, labels = np.arange(1, len(images) + 1)[:, None], np.zeros(len(images), np.int64)
    return ClientData(split, images, tokens=tokens, labels=labels)


def test_an_image_that_is_shown_and_true_is_no_copy() -> None:
    images = noise(1, 1, 16, 16).repeat(41, 0)
    drawn = torch.randn(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = text_scores(client_of(images, 1), drawn, None)
    assert scores["copied"] == 0
    assert scores["shown_distance"] == pytest.approx(scores["style_distance"], rel=1e-6)


def test_the_nearer_to_what_is_shown_are_copies() -> None:
    images = noise(6, 1, 16, 16)
    truth = torch.from_numpy(images[2:]).float() / 127.5 - 1
    shown = torch.from_numpy(images[[0]]).float() / 127.5 - 1
    mixed = torch.cat([0.6 * truth[:1] + 0.4 * shown, 0.4 * truth[1:] + 0.6 * shown])
    assert text_scores(client_of(images, 2), mixed, None)["copied"] == 0.75

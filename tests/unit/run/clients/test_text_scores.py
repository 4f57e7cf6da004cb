"""The scores of drawn images for clients of a few images, worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clients.client_data import ClientData, gallery_of
from pipeline.clients.evaluation import text_scores
from pipeline.config.load import load_config
from pipeline.federation.setup import prepare
from spire_core.evaluation.prompted_images import Gallery, owner_distances
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


def test_images_that_a_client_shows_are_not_among_those_that_it_is_compared_by() -> None:
    levels = np.array([128, 230, 64], np.uint8)  # shown, held out, another's, all of one caption
    images = levels[:, None, None, None].repeat(4, 2).repeat(4, 3)
    gallery = Gallery(images, np.zeros(3, np.int64), np.array([0, 0, 1]))
    client = replace(client_of(images[:2], 1), gallery=gallery)
    shown, held_out = (torch.from_numpy(images[[i]]).float() / 127.5 - 1 for i in (0, 1))
    assert text_scores(client, shown, None)["retrieval_rank"] == 2
    assert text_scores(client, held_out, None)["retrieved"] == 1


def test_fonts_are_ranked_by_mean_distances_since_all_have_all_characters(fonts_root: Path) -> None:
    sizes = ["num_clients=4", "num_new_clients=1", "cohort_size=2"]
    words = [f"data.root={fonts_root}", *(f"federation.{size}" for size in sizes)]
    setting = prepare(load_config("fonts-cpu", words))
    gallery = gallery_of(setting.partition, setting.images, setting.tokens)
    assert gallery is not None
    text = (setting.tokens, setting.data.labels, gallery)
    client = ClientData(setting.partition.new_clients[0], setting.images, None, *text)
    for seed in range(4):
        drawn = torch.randn(54, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
        means = owner_distances(drawn, gallery.kinds[client.asked(54)], gallery)
        rank = text_scores(client, drawn, None)["retrieval_rank"]
        assert rank == (means <= means[client.client_id]).sum()

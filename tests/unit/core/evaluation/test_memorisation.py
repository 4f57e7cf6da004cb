"""Copies are told from images that only look alike: by hand, by all exchanges, on real digits."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, kstest
from torch import Tensor

from spire_core.evaluation.kid import kid
from spire_core.evaluation.memorisation import (
    Neighbours,
    beside_training,
    exchange_p,
    is_novel,
    neighbours,
    novel_kid,
)
from spire_core.privacy.membership import ClientScores, auc

NUM_SPLITS = 100
KID_SIZES = (1000, 20, 0)


def pixels(*values: float) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def near(train_hits: list[float], test_hits: list[float]) -> Neighbours:
    nothing = np.zeros(0)
    return Neighbours(np.array(train_hits), np.array(test_hits), nothing, nothing)


def test_neighbours_by_hand() -> None:
    """Generated 0, 1, 5 and 2.5, which is as far from the training image 2 as from the test 3."""
    found = neighbours(pixels(0, 1, 5, 2.5), pixels(0.25, 2), pixels(3, 9, 9))
    np.testing.assert_allclose(found.train_hits, [2, 0.5])  # 0 and 1; half of 2.5
    np.testing.assert_allclose(found.test_hits, [1.5, 0, 0])  # 5; half of 2.5
    np.testing.assert_allclose(found.train_reach, [0.25, 0.5])
    np.testing.assert_allclose(found.test_reach, [0.5, 4, 4])
    assert (found.share, found.chance) == (2.5 / 4, 2 / 5)


def test_the_p_value_is_that_of_all_exchanges() -> None:
    """Two clients of 3 + 2 and 2 + 3 images: all pairs of their ten exchanges each."""
    clients = [near([3, 1, 0.5], [0.5, 1]), near([2, 1], [1, 0, 0])]
    shares = [
        [sum(chosen) / sum(hits) for chosen in itertools.combinations(hits, m)]
        for m, hits in ((3, [3, 1, 0.5, 0.5, 1]), (2, [2, 1, 1, 0, 0]))
    ]
    observed = sum(client.share for client in clients)
    exact = np.mean([a + b >= observed - 1e-12 for a, b in itertools.product(*shares)])
    found = exchange_p(clients, seed=3)
    assert abs(found - exact) < 4 * (exact * (1 - exact) / 9999) ** 0.5
    assert exchange_p(clients, seed=3) == found


def test_one_image_that_all_copy_is_no_proof_of_its_own() -> None:
    """A hundred copies of one image are one accident: its role is exchanged as a whole."""
    assert exchange_p([near([100] + [0] * 9, [0] * 10)], 0) == pytest.approx(0.5, abs=0.02)
    several = [near([100] + [0] * 9, [0] * 10)] * 12
    assert exchange_p(several, 0) < 0.002  # of a client each, they are none


def test_chance_and_exchanges_are_within_classes() -> None:
    """Three images of class 0, one of them in training, and two of class 1, one in training.

    All six generated images lie at class 0, and four of them at its training image.
    """
    found = replace(near([4, 0], [2, 0, 0]), classes=np.array([0, 1, 0, 0, 1]))
    assert found.share == pytest.approx(4 / 6)
    assert found.chance == pytest.approx(1 / 3)
    assert exchange_p([found], 0) == pytest.approx(
        1 / 3, abs=0.02
    )  # one of three images of class 0
    alone = replace(near([4], [2, 0]), classes=np.array([1, 0, 0]))
    assert alone.chance == pytest.approx(4 / 6)  # a class without held-out images proves nothing
    assert exchange_p([alone], 0) == 1.0


@pytest.fixture(scope="module")
def digits(mnist_root: Path) -> tuple[Tensor, np.ndarray]:
    """Real digits (N, 1, 28, 28) in [-1, 1], and their classes (N,)."""
    with np.load(mnist_root / "mnist.npz") as stored:
        images = torch.from_numpy(stored["test_images"]).float().reshape(-1, 1, 28, 28)
        return images / 127.5 - 1, stored["test_labels"].astype(np.int64)


@pytest.mark.slow
def test_fresh_images_of_several_clients_are_flagged_so_within_classes(
    digits: tuple[Tensor, np.ndarray],
) -> None:
    """As runs test them: three clients with classes of their own, exchanged within these."""
    pixels, labels = F.adaptive_avg_pool2d(digits[0], 8), digits[1]
    held = [np.flatnonzero(np.isin(labels, own)) for own in ((3, 7), (0, 5, 8), (1, 4))]
    found = []
    for seed in range(NUM_SPLITS):
        rng, clients = np.random.default_rng(seed), []
        for own in held:
            chosen = rng.permutation(own)[:72]
            train, test, fresh = np.split(chosen, (16, 40))
            near = neighbours(*(pixels[torch.from_numpy(one)] for one in (fresh, train, test)))
            clients.append(replace(near, classes=labels[np.r_[train, test]]))
        found.append(exchange_p(clients, seed))
    flagged = binomtest(sum(p < 0.05 for p in found), NUM_SPLITS)
    low, high = flagged.proportion_ci(0.95, "exact")
    assert low <= 0.05 <= high
    assert kstest(found, "uniform").pvalue > 0.01


def test_a_tenth_of_copies_is_seen_over_several_clients(digits: tuple[Tensor, np.ndarray]) -> None:
    pixels = F.avg_pool2d(digits[0][np.isin(digits[1], (3, 7))], 2)
    some, all_copies = [], []
    for seed in range(8):
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
        train, test, fresh = pixels[order[:138]].split((32, 48, 58))
        some.append(neighbours(torch.cat([fresh, train[:6]]), train, test))
        all_copies.append(neighbours(train.repeat(2, 1, 1, 1), train, test))
    assert exchange_p(some, 0) < 0.05
    assert exchange_p(all_copies[:1], 0) < 0.001
    assert all_copies[0].share > 0.99
    reach = ClientScores(-all_copies[0].train_reach, -all_copies[0].test_reach)
    assert auc(reach) > 0.95


def features_of(images: Tensor) -> Tensor:
    return 4 * F.avg_pool2d(images, 7).flatten(1)


def test_copies_are_left_out_and_others_keep_their_score(
    digits: tuple[Tensor, np.ndarray],
) -> None:
    """Of clients with 64 images of three classes: fresh, then shifted ones, copies last."""
    pixels, labels = digits
    plain, novel = dict[str, list[float]](), dict[str, list[float]]()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        held = rng.permutation(np.flatnonzero(np.isin(labels, (2, 5, 8))))
        train, drawn, unseen = np.split(held, (64, 192))
        beside = beside_training(labels[train], labels[unseen], seed, 0)
        assert beside is not None
        assert np.array_equal(
            np.bincount(labels[unseen][beside]), np.bincount(labels[train], minlength=9)
        )
        fresh, copies = pixels[drawn], pixels[train].repeat(2, 1, 1, 1)
        made = {"fresh": fresh, "shifted": fresh.roll(2, dims=-1), "copies": copies}
        made["half copies"] = torch.cat([made["shifted"][:64], copies[:64]])
        real = features_of(pixels[unseen[~beside]])
        for name, images in made.items():
            kept = is_novel(images, pixels[train], pixels[unseen[beside]])
            found = novel_kid(features_of(images), kept, real, KID_SIZES)
            assert (found is None) == (name == "copies")
            novel.setdefault(name, []).append(found or 0.0)
            plain.setdefault(name, []).append(kid(real, features_of(images), *KID_SIZES).mean)
    means = {name: float(np.mean(values)) for name, values in novel.items()}
    error = np.std(novel["fresh"]) / 8**0.5
    assert abs(means["fresh"] - np.mean(plain["fresh"])) < 4 * error
    assert np.mean(plain["copies"]) < np.mean(plain["half copies"]) < np.mean(plain["shifted"])
    assert means["fresh"] < 0.5 * means["shifted"]
    np.testing.assert_allclose(means["half copies"], means["shifted"], rtol=0.2)


def test_a_class_with_too_few_unseen_images_has_no_score() -> None:
    train = np.array([0, 0, 1])
    assert beside_training(train, np.array([0, 0, 0, 1, 1]), 0, 0) is None
    found = beside_training(train, np.array([0, 0, 0, 0, 1, 1]), 0, 0)
    assert found is not None
    assert (found[:4].sum(), found[4:].sum()) == (2, 1)

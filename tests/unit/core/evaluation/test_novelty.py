"""Novel KID on real digits: copies have none, and it is that of all images for those that learn."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spire_core.evaluation.kid import kid
from spire_core.evaluation.novelty import beside_training, is_novel, novel_kid

SIZES = (1000, 20, 0)


def features_of(images: Tensor) -> Tensor:
    return 4 * F.avg_pool2d(images, 7).flatten(1)


def test_copies_are_left_out_and_others_keep_their_score(mnist_root: Path) -> None:
    """Of clients with 64 images of three classes: fresh, then shifted ones, copies last."""
    with np.load(mnist_root / "mnist.npz") as stored:
        labels = stored["test_labels"].astype(np.int64)
        pixels = torch.from_numpy(stored["test_images"]).float().reshape(-1, 1, 28, 28) / 127.5 - 1
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
            found = novel_kid(features_of(images), kept, real, SIZES)
            assert (found is None) == (name == "copies")
            novel.setdefault(name, []).append(found or 0.0)
            plain.setdefault(name, []).append(kid(real, features_of(images), *SIZES).mean)
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

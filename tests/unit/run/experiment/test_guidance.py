"""New clients that choose their guidance by images that they set aside, on real MNIST."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import finished, small
from torch import Tensor

from pipeline.inference import saved_run
from pipeline.inference.saved_run import SavedRun
from pipeline.results.result import Result
from pipeline.results.tables import new_clients, with_worlds
from spire_core.evaluation.extractors import make_extractor
from spire_core.rng import torch_generator
from spire_core.training.fit import to_float

SCALES = (0.0, 1.0, 4.0)
SETTINGS = ["federation.num_rounds=20", "federation.num_new_clients=3", "eval.num_clients=null"]
SETTINGS += ["eval.num_images=12", "diffusion.sample_steps=3", "eval.kid_subset_size=12"]
SETTINGS += ["adapt.epochs=4", "adapt.eval_every=4", "client.lr=0.01", "adapt.num_images=20"]
CHOICE = [f"adapt.guidance={list(SCALES)}"]


@pytest.fixture(scope="module")
def run(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs an experiment with more settings of new clients, once; the first one has rounds.

    The others take its pre-training over, which they have in common.
    """
    first: list[Path] = []

    @functools.cache
    def run_with(*words: str) -> Result:
        config = small(mnist_root, tmp_path_factory.mktemp("run"), *SETTINGS, *words)
        result = finished(config, *first)
        first[:] = first or [result.run_dir]
        return result

    return run_with


def mmd(real: Tensor, fake: Tensor) -> float:
    """The unbiased MMD^2 with the kernel (x.y / D + 1)^3."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        of_pairs = kernel(a, a)
        return (of_pairs.sum() - of_pairs.trace()) / (len(a) * (len(a) - 1))

    return float(within(real) + within(fake) - 2 * kernel(real, fake).mean())


def of_the_choice(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """The noise of the images that choose, in place of that of images that are scored."""
    assert purpose.startswith("sample")
    return torch_generator(seed, "guidance", *counters)


@pytest.mark.slow
def test_a_new_client_takes_the_scale_whose_drawings_are_nearest_to_what_it_set_aside(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drawings that choose are of other noise than those that are scored."""
    result = run("adapt.lr=1.0", *CHOICE)
    saved, extractor = SavedRun.load(result.run_dir), make_extractor("mnist-cnn")
    clients = new_clients(result.adaptation, result.real, 12)
    rows = with_worlds(clients, result.setting, result.adaptation).to_dict("records")
    for report, row in zip(result.adaptation.reports, rows, strict=True):
        client_id = report.client_id
        train = result.setting.partition.split(client_id).train
        order = torch.randperm(len(train), generator=torch_generator(0, "validation", client_id))
        aside = to_float(torch.from_numpy(result.setting.images[train[order[:4]]]))
        real = extractor.features(aside)
        with monkeypatch.context() as patch:
            patch.setattr(saved_run, "torch_generator", of_the_choice)
            images = {s: torch.from_numpy(saved.draw(client_id, 12, 0, s)) for s in SCALES}
        distances = {s: mmd(real, extractor.features(x)) for s, x in images.items()}
        best = min(SCALES, key=distances.__getitem__)
        assert row["guidance"] == report.guidance == saved.guidance(client_id) == best
        few = report.after.images
        scored = saved.draw(client_id, 12, 0, best)
        np.testing.assert_allclose(few, scored[: len(few)], atol=1e-4)
        assert np.abs(images[best].numpy() - scored).max() > 0.1
        assert report.neighbours is not None  # among those 16, not the four set aside
        assert len(report.neighbours.train_hits) == 16


def test_the_choice_changes_the_last_drawings_and_neither_fit_nor_curves(
    run: Callable[..., Result],
) -> None:
    plain, forced = (
        run("adapt.early_stopping=true", "adapt.lr=0.02", *words)
        for words in ((), ("adapt.guidance=[4.0,4.5]",))
    )
    moved = list[int]()
    for before, after in zip(plain.adaptation.reports, forced.adaptation.reports, strict=True):
        one, other = (SavedRun.load(of.run_dir) for of in (plain, forced))
        states = [of.client_state(before.client_id) for of in (one, other)]
        assert all(torch.equal(part, states[1].parts[k]) for k, part in states[0].parts.items())
        assert (before.guidance, after.guidance in (4.0, 4.5)) == (None, True)
        assert before.kept_epoch == after.kept_epoch
        for one, other in zip(before.curve, after.curve, strict=True):  # up to a batch's rounding
            assert replace(one, observed=None) == replace(other, observed=None)
            assert (other.observed or {}) == pytest.approx(one.observed or {}, rel=1e-3)
        np.testing.assert_allclose(before.before.images, after.before.images, atol=1e-4)
        is_same = np.allclose(before.after.images, after.after.images, atol=1e-4)
        assert is_same == (before.kept_epoch == 0)  # nothing that guidance leads away from
        moved.append(before.kept_epoch)
    for ours, theirs in zip(plain.adaptation.curves, forced.adaptation.curves, strict=True):
        pd.testing.assert_frame_equal(theirs, ours, rtol=1e-3, atol=1e-3)
    assert max(moved) > 0

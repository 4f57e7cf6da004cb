"""New clients that choose their guidance by images that they set aside, on real MNIST."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import finished, small
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.worker import ClientWorker
from pipeline.inference import saved_run
from pipeline.inference.arrival import adapt_arrival
from pipeline.inference.arrival_images import ArrivingImages
from pipeline.inference.saved_run import SavedRun, open_run
from pipeline.results.result import Result
from pipeline.results.tables import new_clients, with_worlds
from spire_core.config.adapt import AdaptConfig
from spire_core.evaluation.extractors import make_extractor
from spire_core.federated.private_state import PrivateState
from spire_core.methods import METHODS
from spire_core.partition.split import ClientSplit
from spire_core.rng import torch_generator
from spire_core.training.fit import to_float

SCALES = (0.0, 1.0, 4.0)
SETTINGS = ["federation.num_rounds=20", "federation.num_new_clients=3", "eval.num_clients=null"]
SETTINGS += ["eval.num_images=12", "diffusion.sample_steps=3", "eval.kid_subset_size=12"]
SETTINGS += ["adapt.epochs=4", "adapt.eval_every=4", "client.lr=0.01", "adapt.num_images=20"]
CHOICE = [f"adapt.guidance={list(SCALES)}"]


@pytest.fixture(scope="module")
def run(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs an experiment with more settings of new clients, once; the first of a method has rounds.

    The others take its pre-training over, which they have in common.
    """
    first: dict[str, Path] = {}

    @functools.cache
    def run_with(*words: str) -> Result:
        config = small(mnist_root, tmp_path_factory.mktemp("run"), *SETTINGS, *words)
        name = config.method.name
        result = finished(config, first.get(name))
        first.setdefault(name, result.run_dir)
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


@pytest.mark.parametrize("words", [["adapt.lr=1.0"], ["method=fedavg_ft", "adapt.lr=0.003"]])
def test_a_new_client_takes_the_scale_whose_drawings_are_nearest_to_what_it_set_aside(
    words: list[str], run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drawings that choose are of other noise than those that are scored."""
    result = run(*words, *CHOICE)
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
        assert row["steps"] == 4  # of 16 images each
        assert report.neighbours is not None  # among those 16, not the four set aside
        assert len(report.neighbours.train_hits) == 16


@pytest.mark.parametrize("more", [["adapt.lr=0.02"], ["method=fedavg_ft", "adapt.lr=0.003"]])
def test_the_choice_changes_the_last_drawings_and_neither_fit_nor_curves(
    more: list[str], run: Callable[..., Result]
) -> None:
    plain, forced = (
        run("adapt.early_stopping=true", *more, *words)
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
        for name in ("own", "lost", "replaced"):
            assert getattr(theirs, name) == pytest.approx(getattr(ours, name), rel=1e-3, abs=1e-3)
    assert max(moved) > 0


def test_a_client_that_arrives_chooses_too(run: Callable[..., Result]) -> None:
    result = run("adapt.lr=1.0", *CHOICE)
    saved = open_run(str(result.run_dir))
    images = result.setting.images[:30]
    arrival = adapt_arrival(saved, ArrivingImages(images), saved.config.adapt)
    assert arrival.guidance in SCALES
    assert saved.guidance(arrival.client_id) == arrival.guidance
    assert saved.guidance(0) == saved.guidance(None) == saved.config.eval.guidance


class Extractor:
    """Features that are the pixels."""

    num_features = 4

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_a_choice_sees_the_captions_of_what_was_set_aside_alone() -> None:
    """Those of the held-out images say what the client will be asked for."""
    images = np.arange(14, dtype=np.uint8).repeat(4).reshape(14, 1, 2, 2)
    split = ClientSplit(1, np.arange(10), np.arange(10, 14))
    client = ClientData(split, images, tokens=np.arange(14)[:, None])
    method = SimpleNamespace(record=METHODS["spire"])
    network = SimpleNamespace(load=lambda _: None, weights=torch.zeros(1))
    adapt = AdaptConfig(guidance=(1.9, 0.03, 1.0))
    config, asked = SimpleNamespace(method=method, seed=0, adapt=adapt), list[list[int]]()
    context = SimpleNamespace(config=config, model=network)

    def draw(own: list[ClientData], *more: Any) -> list[Tensor]:
        prompts, (_, _, [scale], _) = own[0].prompts(8), more
        assert prompts is not None
        asked.append(prompts.flatten().tolist())
        return [torch.full((8, 1, 2, 2), scale - 1.0)]

    evaluator: Any = SimpleNamespace(
        context=context,
        extractor=Extractor(),
        real_features=lambda own: to_float(own.test_images()).flatten(1),
        generate_all=draw,
    )
    worker: Any = SimpleNamespace(
        evaluator=evaluator, setup=SimpleNamespace(config=config), context=context
    )
    start = torch.zeros(1)
    chosen = ClientWorker.choose_guidance(worker, [client], [PrivateState()], start, None)
    order = torch.randperm(10, generator=torch_generator(0, "validation", 1))
    aside = order[:2].tolist()
    assert asked == [[*aside * 4]] * 3
    assert chosen == [0.03]  # nearly as dark as its images

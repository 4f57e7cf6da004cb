"""A worker's part in rounds and in the fits of new clients."""

import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import FitPlan, WorkerSetup, report_of
from pipeline.runs.noise_key import keep_noise_key
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.federated.private_updates import NOISE, ClippedFormat
from spire_core.network.flat_model import initial_weights
from spire_core.partition.split import ClientSplit, Partition
from spire_core.privacy.guarantee import PrivateRound
from spire_core.privacy.noise import GRID, SecretNoise, key_of

SMALL = ("model.width=8", "model.d_emb=4", "client.batch_size=4", "client.opt_state=reset")
SMALL += ("eval.num_images=8", "diffusion.sample_steps=2", "adapt.epochs=1", "adapt.lr=0.1")
SMALL += ("eval.kid_subset_size=8", "eval.kid_num_subsets=2")
PRIVATE = PrivateRound(0.5, 1.0, None, 2.0)


def worker_of(
    folder: Path,
    *words: str,
    num_clients: int = 12,
    num_images: int = 8,
    preset: str = "smoke",
    extractor: str = "none",
) -> ClientWorker:
    """Clients of some images each, that train on as many as they hold out; the last two are new."""
    config = load_config(preset, [*words, f"eval.extractor={extractor}"])
    images = np.random.default_rng(0).integers(0, 256, (64, 1, 16, 16), np.uint8)
    own = np.arange(num_images)
    splits = [
        ClientSplit(c, (own + 8 * c) % 64, (own + 8 * c + 32) % 64) for c in range(num_clients)
    ]
    partition = Partition(tuple(splits[:-2]), tuple(splits[-2:]))
    run_dir = folder / "run"
    run_dir.mkdir(parents=True)
    return ClientWorker(WorkerSetup(config, {}, partition, extractor, run_dir), images)


def first_weights(worker: ClientWorker, spread: float = 0.0) -> np.ndarray:
    """The first weights, with normal numbers of this deviation added."""
    config = worker.setup.config
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    drawn = np.random.default_rng(1).standard_normal(len(weights), np.float32)
    return weights + np.float32(spread) * drawn


# --- rounds ---


@pytest.mark.parametrize(("private", "engine"), [(None, "grouped"), (PRIVATE, "loop")])
def test_a_profile_names_clients_unless_the_round_is_private(
    private: PrivateRound | None, engine: str, tmp_path: Path
) -> None:
    worker = worker_of(tmp_path, *SMALL, f"client.engine={engine}", "client.group_size=2")
    groups = [(4, 7)] if engine == "grouped" else [(4,), (7,)]
    plan = RoundPlan(2, 1.0, shares_local=True, tau=1, private=private)
    worker.start_profile()
    for group in groups:
        worker.trained(group, 0, Broadcast(first_weights(worker)), plan)
    assert worker.save_profile(tmp_path, "rounds")
    [trace] = tmp_path.glob("*.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    spans = [event["name"] for event in events if event["name"].startswith("round 3")]
    named = [f"round 3, clients {', '.join(map(str, ids))}" for ids in groups]
    assert spans == (named if private is None else ["round 3"] * len(groups))


@pytest.mark.parametrize(
    ("engine", "preset", "least", "most"),
    [
        ("loop", "smoke", 0.0, 0.0),
        ("grouped", "smoke", 0.0, 1e-3),
        ("grouped", "mnist-cpu", 1e-5, 1e-2),  # with attention, far from the start
    ],
)
def test_a_client_that_is_left_out_leaves_the_summands_of_the_others(
    engine: str, preset: str, least: float, most: float, tmp_path: Path
) -> None:
    """One by one to the last bit; in groups, which are then cut elsewhere, up to rounding.

    Client 0 itself, whose summand is clipped, is in neither sum.
    """
    is_large = preset == "mnist-cpu"
    words = ("client.opt_state=reset",) if is_large else SMALL
    words += (f"client.engine={engine}", *(["client.group_size=2"] * (engine == "grouped")))
    worker = worker_of(tmp_path, *words, preset=preset, num_clients=7)
    weights = first_weights(worker, 0.2 if is_large else 0.0)
    plan = RoundPlan(2, 1.0, True, tau=4, private=PRIVATE)

    def total(client_ids: Sequence[int]) -> np.ndarray:
        found = np.zeros(0, np.uint64)
        for group in worker.setup.config.client.groups(client_ids):
            for update, _ in worker.trained(group, 0, Broadcast(weights), plan):
                form = ClippedFormat(Broadcast(weights), len(update.weights), PRIVATE)
                if update.client_id != 0:
                    found = form.encode(update) + (found if len(found) else np.uint64(0))
        return found.view(np.int64) / GRID

    assert least <= np.linalg.norm(total(range(5)) - total(range(1, 5))) <= most


@pytest.mark.parametrize(
    ("groups", "setting"),
    [([(0,), (1,)], "client.emb_dropout=0.5"), ([(0, 1)], "client.prox_mu=10")],
)
def test_clients_train_by_the_settings(
    groups: list[tuple[int, ...]], setting: str, tmp_path: Path
) -> None:
    def trained(name: str, *more: str) -> np.ndarray:
        worker = worker_of(tmp_path / name, *SMALL, "client.emb_dropout=0", *more, num_images=16)
        plan, sent = (
            RoundPlan(0, 1.0, shares_local=True, tau=3),
            Broadcast(first_weights(worker, 0.02)),
        )
        return np.stack([u.weights for g in groups for u, _ in worker.trained(g, 0, sent, plan)])

    plain = trained("plain")
    assert np.array_equal(plain, trained("again"))
    assert (np.abs(plain - trained("other", setting)).max(axis=1) > 1e-4).all()


def test_the_noise_of_a_round_is_a_summand_of_its_own(tmp_path: Path) -> None:
    words = ("privacy.rounds.epsilon=8", "privacy.noise_key=k", "client.engine=loop")
    worker = worker_of(tmp_path, *SMALL, *words)
    keep_noise_key(worker.setup.folder, worker.setup.config.privacy)
    broadcast = Broadcast(first_weights(worker))
    form, sums = ClippedFormat(broadcast, len(broadcast.weights), PRIVATE), []
    for round_idx in range(2):
        plan = RoundPlan(round_idx, 1.0, shares_local=True, tau=1, private=PRIVATE)
        for _ in range(2):
            assert worker.fit((NOISE,), broadcast, plan) == []
        assert worker.summed(round_idx) == [NOISE]
        sums.append(worker.merged(round_idx, None).numbers)
        expected = form.noise(SecretNoise(key_of("k")), round_idx)
        np.testing.assert_array_equal(sums[-1], expected)
    assert (sums[0] != sums[1]).mean() > 0.99


# --- new clients ---

LOOK_S = 0.25


@pytest.mark.parametrize("method", ["spire", "shared_rep"])
def test_a_fit_is_timed_without_the_looks_at_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(tmp_path, *SMALL, f"method={method}", num_images=16, extractor="mnist-cnn")
    draw = worker.evaluator.draw

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(LOOK_S)
        return draw(*args, **kwargs)

    monkeypatch.setattr(worker.evaluator, "draw", slowly)
    plan = FitPlan(first_weights(worker), worker.real_features(10))
    [fitted] = worker.adapt([10], plan)
    report = report_of(fitted, worker.look([10], plan, fitted.asked))
    assert 0 < report.fit_duration_s <= report.duration_s - 2 * LOOK_S  # before, and after
    if method == "spire":  # side by side
        began = time.monotonic()
        together = FitPlan(plan.weights, plan.pooled, is_together=True)
        one, other = worker.adapt([10, 11], together)
        assert one.fit_duration_s == other.fit_duration_s > 0
        assert 2 * one.fit_duration_s <= time.monotonic() - began


@pytest.mark.parametrize(("method", "is_pulled"), [("fedavg_ft", True), ("local", False)])
def test_a_client_is_pulled_to_a_backbone_that_it_shares(
    method: str, is_pulled: bool, tmp_path: Path
) -> None:
    found = []
    for pull in ("0", "100"):
        words = (f"method={method}", f"adapt.pull={pull}", "adapt.batch_size=4")
        worker = worker_of(tmp_path / pull, *SMALL, *words)
        worker.adapt([10], FitPlan(first_weights(worker), torch.zeros(1, 0)))
        found.append(worker.private_state(10).parts["body"])
    assert torch.equal(*found) != is_pulled

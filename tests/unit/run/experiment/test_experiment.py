"""What a whole experiment says about its new clients, in one process on real MNIST."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import finished, small

from pipeline.clients.worker import ClientWorker
from pipeline.config.schema import Config
from pipeline.data.datasets import load, load_stored
from pipeline.experiment import adaptation
from pipeline.experiment.adaptation import mean_part
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.messages import FitPlan, WorkerSetup, report_of
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.inference.saved_run import SavedRun
from pipeline.results.metrics import adaptation_metrics, copies_tags
from pipeline.results.recording import run_tags
from pipeline.results.result import Result
from pipeline.results.tables import (
    image_controls,
    new_clients,
    pretraining_clients,
    with_worlds,
)
from pipeline.runs.model_files import client_path
from pipeline.runs.record import load_start
from pipeline.tracking.outbox import read_points
from spire_core.adaptation.adapt import AdaptPoint, adapt_client
from spire_core.config.adapt import AdaptConfig
from spire_core.errors import RunError
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB, LOCAL

CONTROLS = ("eval.kid_subset_size=6", "eval.controls=true", "eval.num_clients=2")


def rows_of(result: Result) -> list[dict[str, Any]]:
    """The row of each new client."""
    subset_size = result.setting.config.eval.kid_subset_size
    clients = new_clients(result.adaptation, result.real, subset_size)
    return with_worlds(clients, result.setting, result.adaptation).to_dict("records")


def test_a_new_clients_row_is_about_the_state_that_was_kept(
    mnist_root: Path, tmp_path: Path
) -> None:
    """With a rate that is far too high, so that an early epoch is the best."""
    words = ["adapt.lr=3", "client.lr=0.02", "client.warmup_rounds=1", "eval.kid_subset_size=6"]
    words += ["adapt.epochs=6", "adapt.early_stopping=true"]
    always = finished(small(mnist_root, tmp_path, *words, "adapt.eval_every=1"))
    config = small(mnist_root, tmp_path, *words, "adapt.eval_every=100")
    seldom = finished(config, always.run_dir)
    for i, report in enumerate(always.adaptation.reports):
        kept = report.kept_epoch
        assert kept < report.curve[-1].epoch
        observed = report.curve[kept].observed
        assert observed is not None
        for result in (seldom, always):
            row = rows_of(result)[i]
            assert row["subset_size"] == 6
            assert row["kid_after"] == pytest.approx(observed["own_kid"], rel=1e-4)
            assert row["tv_after"] == observed["tv"]
            assert row["heldout_after"] == pytest.approx(observed["heldout_loss"], rel=1e-6)


def test_a_mean_over_new_clients_is_over_all_of_them() -> None:
    """One stops after its first epoch; the other's scores would otherwise look like a fall."""

    def report(kid: float, num_epochs: int) -> SimpleNamespace:
        points = [AdaptPoint(e, 1.0 if e else None, None, {"own_kid": kid}) for e in range(4)]
        return SimpleNamespace(curve=points[: num_epochs + 1])

    adaptation: Any = SimpleNamespace(reports=[report(1.0, 1), report(0.2, 3)], curves=[])
    scores = {"adapt/kid/mean": 0.6, "adapt/kid/worst": 1.0}
    assert adaptation_metrics(adaptation) == {0: scores, 1: scores | {"adapt/train_loss": 1.0}}


def test_controls_are_scored_as_if_a_client_had_drawn_them(
    mnist_root: Path, tmp_path: Path
) -> None:
    words = (*CONTROLS, "eval.num_clients=null")
    plain = finished(small(mnist_root, tmp_path, *words, "eval.controls=false"))
    result = finished(small(mnist_root, tmp_path, *words), plain.run_dir)
    kept = {k: v for k, v in plain.metrics.items() if "duration" not in k}
    assert kept.items() <= result.metrics.items()
    # MLflow draws a bar for each run only if step 0 is a metric's only step.
    recorded, single = read_points(plain.run_dir), ("final/", "best/", "params/")
    steps = {step for step, found in recorded if any(key.startswith(single) for key in found)}
    assert steps == {0}
    assert {k for k in recorded[0][1] if k.startswith(single)} == set(plain.metrics)
    found = image_controls(result.adaptation, result.real, result.setting)
    rows = {row["control"]: row for row in found.to_dict("records")}
    assert list(rows) == ["adapted", "copies", "fresh", "nearest_draws"]
    copies, fresh, adapted = rows["copies"], rows["fresh"], rows["adapted"]
    assert copies["nn_share"] == pytest.approx(1.0)
    assert copies["nn_auc"] > 0.95
    assert copies["nn_p"] < 0.001 < fresh["nn_p"]
    assert adapted["kid"] == result.metrics["final/adapt_kid_after"]
    near = [report.neighbours for report in result.adaptation.reports]
    for report, one in zip(result.adaptation.reports, near, strict=True):
        split = result.setting.partition.split(report.client_id)
        classes = result.setting.data.labels[np.concatenate([split.train, split.test])]
        assert one is not None
        np.testing.assert_array_equal(one.classes, classes)
        assert (len(one.train_hits), len(one.test_hits)) == (len(split.train), len(split.test))
    tags = copies_tags(result.adaptation, result.setting.config.seed)
    assert adapted["nn_p"] == float(tags["copies.nn_p"])
    assert abs(fresh["kid"]) < adapted["kid"]  # after two rounds nothing is drawn well
    clients = rows_of(result)
    assert all(0 <= row["hull_tv"] <= row["nearest_tv"] <= 1 for row in clients)
    (bare, *_) = rows_of(plain)
    assert not {"hull_tv", "fld_after", "elbo"} & set(bare)
    assert fresh["fld"] < min(copies["fld"], adapted["fld"])
    for row in clients:
        assert row["fld_above_fresh"] == row["fld_after"] - row["fld_fresh"]
        assert np.isfinite(row["elbo"])
    assert adapted["precision"] < 0.5 < min(copies["precision"], fresh["precision"])
    assert copies["kid"] == pytest.approx(np.mean([row["kid_copies"] for row in clients]))
    matrix = result.adaptation.cross_kid
    assert matrix is not None
    old = range(result.setting.config.federation.num_clients)  # all are evaluated
    for j, row in enumerate(clients, start=len(old)):
        assert any(row["kid_nearest_draws"] == pytest.approx(matrix.values[i, j]) for i in old)

    # Pre-training clients: fresh images first, copies last.
    trained = result.pretraining
    olds = pretraining_clients(trained.evaluations[-1], result.real, trained.controls)
    assert olds["client_id"].tolist() == list(old)
    assert olds["nn_share_copies"].tolist() == pytest.approx([1.0] * len(old))
    above = (olds["fld"] - olds["fld_fresh"]).astype(float)
    assert olds["fld_above_fresh"].astype(float).tolist() == pytest.approx(
        above.tolist(), nan_ok=True
    )  # some clients hold most images of a class: none are left for fresh ones
    assert olds["fld_fresh"].mean() < min(olds["fld"].mean(), olds["fld_copies"].mean())
    for name in ("fld_above_fresh", "nn_share", "nn_chance"):
        known = olds[name].dropna().mean()
        assert result.metrics[f"final/pretrain_{name}"] == pytest.approx(known)
        assert f"final/pretrain_{name}" not in plain.metrics


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(
            "partition=iid partition.style=rotation",
            ["copies", "nearest_draws"],
            marks=pytest.mark.slow,
        ),
        ("method=fedavg", ["copies", "fresh", "nearest_images"]),
    ],
)
def test_each_kind_of_run_has_the_controls_that_it_can_have(
    words: str, expected: list[str], mnist_root: Path, tmp_path: Path
) -> None:
    more = ("federation.num_clients=5", "federation.cohort_size=5")
    result = finished(small(mnist_root, tmp_path, *CONTROLS, *more, *words.split()))
    assert all(list(own) == expected for own in result.adaptation.image_controls)
    if "fedavg" in words:  # its draws are pooled for KID, and mixtures are compared one by one
        for drawn in result.pretraining.evaluations[-1].drawn:
            assert len(drawn.features) == 2 * 8
            assert drawn.histogram is not None
            assert drawn.histogram.shape == (2, 10)


def test_pretraining_clients_are_scored_on_what_the_saved_run_draws(
    mnist_root: Path, tmp_path: Path
) -> None:
    """With guidance as well."""
    more = ("method=shared_rep", "eval.guidance=2.0", "eval.guidance_interval=[0.1,100]")
    result = finished(small(mnist_root, tmp_path, *more))
    run = SavedRun.load(result.run_dir)
    for drawn in result.pretraining.evaluations[-1].drawn:
        again = run.draw(drawn.client_id, 8, seed=0, guidance=2.0)
        np.testing.assert_allclose(drawn.images, again[: len(drawn.images)], atol=1e-5)
        plain = run.draw(drawn.client_id, 8, seed=0)
        assert np.abs(drawn.images - plain[: len(drawn.images)]).max() > 1e-4


@pytest.mark.slow
def test_guidance_leaves_a_method_without_pretraining_alone(
    mnist_root: Path, tmp_path: Path
) -> None:
    """Its first network predicts nothing: to lead away from that would double what it predicts."""
    words = ("method=local", *CONTROLS)
    plain = finished(small(mnist_root, tmp_path, *words))
    guided = finished(small(mnist_root, tmp_path, *words, "eval.guidance=2.0"))
    for before, after in zip(plain.adaptation.reports, guided.adaptation.reports, strict=True):
        assert torch.equal(before.after.features, after.after.features)
    client_id = plain.adaptation.reports[0].client_id
    run = SavedRun.load(plain.run_dir)
    assert np.array_equal(run.draw(client_id, 4), run.draw(client_id, 4, guidance=2.0))
    kinds = ["copies", "fresh", "nearest_images"]
    assert all(list(own) == kinds for own in plain.adaptation.image_controls)


def test_a_folder_of_images_runs_with_another_data_sets_features_and_goes_on_from_anywhere(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_stored("mnist", mnist_root, "test")
    photos = tmp_path / "photos"
    for label, name in enumerate(("zero", "one", "two", "three")):
        (photos / name).mkdir(parents=True)
        for i in np.flatnonzero(stored.labels == label)[:60]:
            image = Image.fromarray(stored.images[i, 0]).convert("RGB")
            image.save(photos / name / f"{i}.png")
    words = ["data=folder", "data.path=photos", "eval.extractor=cifar10-cnn", "seed=-1"]
    words += ["federation.num_clients=3", "federation.num_new_clients=1"]
    config = small(mnist_root, tmp_path, *words, "federation.cohort_size=2")
    monkeypatch.chdir(tmp_path)
    result = finished(config)
    [row] = rows_of(result)
    assert row["tv_after"] is None  # that classifier knows none of these classes
    assert np.isfinite(row["kid_after"])
    assert "final/adapt_tv_after" not in result.metrics
    assert run_tags(result.setting, None)["data_hash"] == load(config.data, "train").sha256

    monkeypatch.chdir(result.run_dir)
    began, _ = load_start(result.run_dir)
    resume_experiment(result.run_dir, began, Watcher())
    changed = next((photos / "zero").iterdir())
    shutil.copyfile(next((photos / "one").iterdir()), changed)
    with pytest.raises(RunError, match=r"by their data_sha256"):
        resume_experiment(result.run_dir, began, Watcher())


class Keeping(Watcher):
    """Keeps all files of a run's clients and checkpoints when pre-training ends."""

    def pretrained(self, run_dir: Path) -> None:
        self.files = files_of(run_dir)


def files_of(run_dir: Path) -> dict[Path, bytes]:
    files = [*run_dir.glob("clients/*/*"), *run_dir.glob("checkpoints/*/*")]
    return {path: path.read_bytes() for path in files}


def test_new_clients_of_spire_are_fitted_together_and_change_nothing_else(
    mnist_root: Path, tmp_path: Path
) -> None:
    found = list[Result]()
    for group_size in (1, 8):
        size, watcher = f"adapt.group_size={group_size}", Keeping()
        more = ("adapt.epochs=3", "adapt.eval_every=2", size, "federation.num_new_clients=3")
        source = found[0].run_dir if found else None
        config = small(mnist_root, tmp_path, *more)
        result = run_experiment(config, None, watcher, pretrained=source)
        found.append(result)
        after = files_of(result.run_dir)
        assert watcher.files.items() <= after.items()
        added = {path.parent.name for path in after.keys() - watcher.files.keys()}
        assert added == {f"{client_id:07d}" for client_id in result.setting.new_ids}
        final = load_file(result.run_dir / "model" / "backbone.safetensors")
        [state] = result.run_dir.glob("checkpoints/*/server.safetensors")
        assert torch.equal(result.setting.model.flatten(final), load_file(state)["ema"])
        for report in result.adaptation.reports:
            own = load_file(client_path(result.run_dir / "model", report.client_id))
            assert own.keys() == {"client_emb"}
            assert own["client_emb"].abs().max() > 0
    one_by_one, together = found
    reports = [result.adaptation.reports for result in (together, one_by_one)]
    for mine, theirs in zip(*reports, strict=True):
        assert mine.scores_after == pytest.approx(theirs.scores_after, rel=1e-3, abs=1e-3)
        np.testing.assert_allclose(mine.after.images, theirs.after.images, atol=1e-3)
        paths = [
            result.run_dir / "clients" / f"{mine.client_id:07d}" / "0000000.safetensors"
            for result in found
        ]
        kept, kept_alone = map(load_file, paths)
        assert kept.keys() == {"client_emb", *(f"after.{epoch}" for epoch in (0, 2, 3))}
        for name, emb in kept.items():
            torch.testing.assert_close(emb, kept_alone[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_pretraining_clients_fine_tune_for_a_score_of_their_own(
    mnist_root: Path, tmp_path: Path
) -> None:
    settings = ["method=fedavg_ft", "adapt.lr=0.01", "federation.num_clients=96"]
    without = finished(small(mnist_root, tmp_path, *settings))
    config = small(mnist_root, tmp_path, *settings, "adapt.tune_epochs=2")
    result = finished(config, without.run_dir)
    assert result.tuned is not None
    assert result.state_fingerprint == without.state_fingerprint  # nothing of it is kept
    summary = result.metrics
    assert summary["final/pretrain_tuned_kid_mean"] == result.tuned.kid_mean
    assert result.tuned.kid_mean != summary["final/pretrain_kid_mean"]
    others = {k: v for k, v in summary.items() if "tuned" not in k and "duration" not in k}
    assert others.items() <= without.metrics.items()


def worker_in(folder: Path, config: Config) -> tuple[FederationSetup, ClientWorker]:
    """An experiment's setting, and a worker of it that keeps clients' states in a folder."""
    setting = prepare(config)
    parts = (setting.mixtures, setting.partition, setting.extractor, folder)
    return setting, ClientWorker(WorkerSetup(config, *parts), setting.images)


@pytest.mark.parametrize(("method", "part"), [("spire", CLIENT_EMB), ("shared_rep", LOCAL)])
def test_a_pretraining_client_trains_on_from_its_own_part(
    method: str, part: str, mnist_root: Path, tmp_path: Path
) -> None:
    more = ("federation.num_clients=96", "adapt.lr=0.01", "adapt.early_stopping=true")
    more += ("adapt.tune_epochs=2",)
    config = small(mnist_root, tmp_path, f"method={method}", *more)
    setting, worker = worker_in(tmp_path, config)
    generator, layout = torch.Generator().manual_seed(0), setting.model.layout
    weights = torch.randn(layout.size, generator=generator) * 0.05
    size = config.model.d_emb if part == CLIENT_EMB else layout.part_size(part)
    own = PrivateState({part: torch.randn(size, generator=generator) * 0.05})
    (tmp_path / "clients").mkdir()
    worker.store.save(3, 2, own)
    samples, losses = worker.draw_tuned(3, weights.numpy())

    client, model = worker.client_data(3), worker.model
    settings = AdaptConfig(epochs=2, lr=0.01, batch_size=config.adapt.batch_size)
    inputs = worker.for_training(client)
    more = (inputs, own, settings, worker.objective, lambda *_: {})
    tuned = adapt_client(model, weights, *more).state
    assert tuned.parts.keys() == {part}
    assert not torch.equal(tuned.parts[part], own.parts[part])
    [drawn] = worker.evaluator.draw([client], [tuned], weights)
    emb = load_client(model, weights, tuned)
    assert torch.equal(samples.features, worker.evaluator.samples(client, drawn).features)
    assert losses.own == worker.evaluator.heldout_mean(client, emb)
    [stored] = worker.private_state(3).parts.values()
    assert torch.equal(stored, own.parts[part])  # nothing of it is kept


@pytest.mark.parametrize("method", ["fedavg_ft", "shared_rep", "fedavg"])
def test_what_a_new_client_ends_with_is_what_its_own_parts_draw(
    method: str, mnist_root: Path, tmp_path: Path
) -> None:
    config = small(mnist_root, tmp_path, f"method={method}", "adapt.epochs=2")
    setting, worker = worker_in(tmp_path, config)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(setting.model.layout.size, generator=generator) * 0.05
    client_id, pooled = setting.new_ids[0], worker.real_features(0)
    plan = FitPlan(weights.numpy(), pooled)
    [fitted] = worker.adapt((client_id,), plan)
    report = report_of(fitted, worker.look([client_id], plan, fitted.asked))
    assert report.kept_epoch == (0 if method == "fedavg" else 2)

    client, evaluator = worker.client_data(client_id), worker.evaluator
    own = worker.private_state(client_id)
    [images] = evaluator.draw([client], [own], weights)
    emb = load_client(worker.model, weights, own)
    assert torch.equal(report.after.features, evaluator.samples(client, images).features)
    heldout = evaluator.heldout(client, emb)
    scores = evaluator.scores(client, images, report.after, heldout, pooled)
    assert scores.items() <= report.scores_after.items()
    assert torch.equal(report.heldout[report.kept_epoch], heldout)


def test_held_out_losses_are_with_ones_own_no_and_another_clients_embedding(
    mnist_root: Path, tmp_path: Path
) -> None:
    config = small(mnist_root, tmp_path)
    setting, worker = worker_in(tmp_path, config)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(setting.model.layout.size, generator=generator) * 0.05
    losses = worker.losses(0, weights.numpy(), 1)
    own, other = (worker.private_state(i).parts["client_emb"] for i in (0, 1))
    worker.model.load(weights)
    client, embs = worker.client_data(0), (own, torch.zeros_like(own), other)
    expected = [worker.evaluator.heldout_mean(client, emb) for emb in embs]
    assert [losses.own, losses.zero, losses.swapped] == expected
    assert len(set(expected)) == 3
    alone = worker.losses(0, weights.numpy(), 0)  # nobody else is evaluated
    assert alone == replace(losses, swapped=None)


def test_a_new_embedding_starts_at_zero_at_the_mean_or_at_random(
    mnist_root: Path, tmp_path: Path
) -> None:
    config = small(mnist_root, tmp_path)
    setting, worker = worker_in(tmp_path, config)
    new = setting.new_ids[0]
    states = torch.stack(
        [worker.private_state(i).parts["client_emb"] for i in setting.representative_ids]
    )
    weights = np.zeros(setting.model.layout.size)
    mean = mean_part(setting, LocalClientPool(worker), CLIENT_EMB, weights)
    torch.testing.assert_close(mean, states.mean(0), rtol=0, atol=1e-6)
    starts = {}
    for init in ("zero", "mean", "random"):
        _, worker = worker_in(tmp_path, small(mnist_root, tmp_path, f"adapt.init={init}"))
        starts[init] = worker.start_state(new, mean).parts["client_emb"]
    assert not starts["zero"].any()
    assert torch.equal(starts["mean"], mean)
    assert 0.3 < starts["random"].std() / config.client.emb_init_std < 2.0
    assert not torch.equal(starts["random"], worker.start_state(new + 1).parts["client_emb"])


def test_the_mean_of_own_parts_is_that_of_all_clients_in_any_groups(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of six clients have local layers of their own; the last one has the backbone's."""
    config = small(mnist_root, tmp_path, "method=shared_rep", "adapt.local_init=mean")
    setting, worker = worker_in(tmp_path, config)
    layout = setting.model.layout
    states = [torch.randn(layout.part_size(LOCAL)) / 10 for _ in range(5)]
    for client_id, own in enumerate(states):
        worker.store.save(client_id, 1, PrivateState({LOCAL: own}))
    weights, means = np.linspace(-1, 1, layout.size, dtype=np.float32), []
    for most in (6, 4, 1):
        monkeypatch.setattr(adaptation, "ADDED_AT_ONCE", most)
        means.append(mean_part(setting, LocalClientPool(worker), LOCAL, weights))
        worker.forget_sum()
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[0], means[2])
    expected = torch.stack([*states, torch.from_numpy(weights[layout.parts[LOCAL]])]).mean(0)
    torch.testing.assert_close(means[0], expected, rtol=0, atol=1e-6)

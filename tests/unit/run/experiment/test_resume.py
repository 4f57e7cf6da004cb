"""An interrupted run goes on to the same result; so does one that takes over pre-training."""

import contextlib
import io
import json
import logging
import os
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from small_runs import Crash, Crasher, crashed, finished, small

from pipeline.audit.audit import audit_run
from pipeline.checkpoint.snapshots import checkpoints, kept_rounds
from pipeline.cli.main import main
from pipeline.config.load import overridden
from pipeline.config.meaning import fingerprint
from pipeline.config.schema import Config
from pipeline.data.glyphs import CHARACTERS, caption_of
from pipeline.experiment import run
from pipeline.experiment.reuse import pretraining_points
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats
from pipeline.federation.setup import prepare
from pipeline.inference.arrival import adapt_arrival
from pipeline.inference.arrival_images import ArrivingImages
from pipeline.inference.pipeline_folder import write_pipeline
from pipeline.inference.saved_run import SavedRun
from pipeline.results.metric_names import EPSILON, FINAL_STEP
from pipeline.results.result import Result
from pipeline.runs import record
from pipeline.runs.record import load_result, load_start
from pipeline.tracking.outbox import Outbox, read_points
from pipeline.tracking.tracker import Status, Tracker
from spire_core.errors import RunError
from spire_core.evaluation.classifier import WEIGHTS_DIR
from spire_core.methods import LOCAL

NUM_ROUNDS = 6
TIMED = ("time/", "memory/")
SIX_ROUNDS = ("tracking.checkpoint_every=2", f"federation.num_rounds={NUM_ROUNDS}", "eval.every=3")
SIX_ROUNDS += ("federation.cohort_size=2", "adapt.epochs=2")
WORDS = ",".join(sorted({word for char in CHARACTERS for word in caption_of(char).split()}))
ADAM = ("server.optimizer=fedadam", "server.lr=0.01", "federation.drop_rate=0.4")
KINDS = {
    "spire": (
        *("adapt.init=mean", "adapt.draws=2", "adapt.schedule=cosine", "adapt.average=0.5"),
        "adapt.guidance=[1,3]",
    ),
    "shared_rep": ("method=shared_rep", "client.compression=top_k", "adapt.local_init=mean"),
    "lora": ("method=lora", "method.share_adapter=false", "model.attention=[1]"),
    "time_split": ("method=time_split", "adapt.local_init=mean", "client.engine=grouped"),
    "text": (
        *("data=fonts", "data.image_size=16", "partition=natural", "eval.extractor=fonts-cnn"),
        *("model.text=words", f"model.words=[{WORDS}]", "client.text_dropout=0.1"),
        *("federation.num_clients=4", "federation.num_new_clients=1", "adapt.num_images=8"),
        "model.num_embs=2",
    ),
}


def comparable(result: Result) -> dict[str, Any]:
    """What a result says, without what depends on the clock."""
    metrics = {k: v for k, v in result.metrics.items() if "duration" not in k}
    evaluations = [e.metrics() for e in result.pretraining.evaluations]
    return {"state": result.state_fingerprint, "metrics": metrics, "evaluations": evaluations}


def points(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    said = read_points(run_dir)
    return [
        (s, {k: v for k, v in m.items() if not k.startswith(TIMED) and "duration" not in k})
        for s, m in said
    ]


TEXT, *ADAPTERS = (
    pytest.param(kind, marks=pytest.mark.slow) for kind in ("text", "lora", "time_split")
)


@pytest.fixture(scope="module", params=["spire", "shared_rep", TEXT, *ADAPTERS])
def whole(
    request: pytest.FixtureRequest,
    mnist_root: Path,
    fonts_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Config, Result]:
    data = fonts_root if request.param == "text" else mnist_root
    root = tmp_path_factory.mktemp("whole")
    config = small(data, root, *SIX_ROUNDS, *ADAM, *KINDS[request.param])
    return config, finished(config)


def test_a_run_that_ends_after_some_rounds_and_goes_on_ends_in_the_same_state(
    whole: tuple[Config, Result],
) -> None:
    config, expected = whole
    is_spire = config.method.name == "spire" and config.model.text == "none"
    first, *later = (1, "evaluated 3", 5, "pretrained") if is_spire else (3,)
    run_dir = crashed(config, first)
    for at in later:
        stored, preset = load_start(run_dir)
        assert (fingerprint(stored), preset) == (fingerprint(config), "smoke")
        with pytest.raises(Crash):
            resume_experiment(run_dir, stored, Crasher(at))
        done = {"evaluated 3": 3, "pretrained": NUM_ROUNDS}.get(str(at), at)
        assert kept_rounds(run_dir) == tuple(r for r in (2, 4, 6) if r <= done)[-2:]
    assert comparable(resume_experiment(run_dir, config, Watcher())) == comparable(expected)
    assert points(run_dir) == points(expected.run_dir)


def test_pretraining_is_taken_over_by_a_run_that_shares_it(
    whole: tuple[Config, Result],
) -> None:
    config, leader = whole
    crasher = Crasher(1)  # a round would be seen: there is none
    taken = run_experiment(config, None, crasher, pretrained=leader.run_dir)
    assert comparable(taken) == comparable(leader)
    assert points(taken.run_dir) == points(leader.run_dir)
    with pytest.raises(RunError, match="these settings"):
        finished(overridden(config, ["federation.tau=1"]), leader.run_dir)


@pytest.mark.parametrize("whole", ADAPTERS, indirect=True)
def test_clients_with_an_adapter_of_their_own_are_drawn_audited_and_joined(
    whole: tuple[Config, Result], tmp_path: Path
) -> None:
    config, result = whole
    run, setting = SavedRun.load(result.run_dir), result.setting
    own, (new_id, _) = setting.model.layout.part_size(LOCAL), setting.new_ids
    sent = [p["comm/up_bytes"] for _, p in read_points(result.run_dir) if "comm/up_bytes" in p]
    of_one = 12 * setting.model.layout.num_without_local + 16  # both moments, steps of four parts
    assert set(sent) == {of_one, 2 * of_one}  # a client of the two may drop out
    audit = audit_run(result.run_dir, config, config, (), 1, lambda text: None)
    assert (audit.messages, audit.models and audit.models.client_ids) == (None, (6, 7))
    arrival = adapt_arrival(run, ArrivingImages(setting.images[:20]), config.adapt)
    assert arrival.num_trained == result.adaptation.reports[0].num_trained == own
    some = [None, *run.client_ids[:2], new_id, arrival.client_id]
    drawn = [run.draw(one, 2) for one in some]
    assert len({images.tobytes() for images in drawn}) == len(drawn)
    if config.method.name == "time_split":
        with pytest.raises(RunError, match="draw with spire sample"):
            write_pipeline(run, new_id, tmp_path / "folder")


class Intruder(Crasher):
    """Ends a run, which it tries to resume while it goes on, as a second `spire resume` would."""

    def after_round(self, stats: RoundStats, driver: Any) -> None:
        if stats.round_idx == 1:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                self.code = main(["resume", str(self.run_dir)])
            self.said = said.getvalue()
        super().after_round(stats, driver)


@pytest.fixture(scope="module")
def intruded(whole: tuple[Config, Result]) -> Intruder:
    """A run that has ended in round 5; checkpoints were taken after 2 and 4."""
    intruder = Intruder(5)
    with pytest.raises(Crash):
        run_experiment(whole[0], "smoke", intruder)
    return intruder


@pytest.mark.parametrize("whole", ["spire"], indirect=True)
def test_a_run_that_goes_on_is_neither_resumed_nor_taken_over(
    whole: tuple[Config, Result], intruded: Intruder
) -> None:
    assert intruded.code == 2
    assert "expected nobody at work on the run in" in intruded.said
    with pytest.raises(RunError, match="expected a finished pre-training"):
        finished(whole[0], intruded.run_dir)


@pytest.mark.parametrize("whole", ["spire"], indirect=True)
@pytest.mark.parametrize(
    "pattern", ["clients/*/0000004.safetensors", "checkpoints/0000004/server.safetensors"]
)
def test_a_run_goes_back_to_the_newest_checkpoint_that_is_whole(
    pattern: str,
    whole: tuple[Config, Result],
    intruded: Intruder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, expected = whole
    began = intruded.run_dir
    run_dir = Path(shutil.copytree(began, tmp_path / "runs" / began.name))
    paths = sorted(run_dir.glob(pattern))
    for path in paths:
        raw = bytearray(path.read_bytes())
        raw[-5] ^= 4
        path.write_bytes(raw if "clients" not in pattern else raw[: len(raw) // 2])
    rounds = Crasher()
    with caplog.at_level(logging.WARNING):
        result = resume_experiment(run_dir, config, rounds)
    assert rounds.rounds == list(range(2, NUM_ROUNDS))
    assert any(str(path) in caplog.text for path in paths)
    assert comparable(result) == comparable(expected)
    assert points(run_dir) == points(expected.run_dir)


class FullDisk(Watcher):
    """After round 3 no file may grow beyond 100 kB, until `free`."""

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        if stats.round_idx == 2:
            until = time.monotonic() + 120  # the last checkpoint is written beside the round
            assert self.run_dir is not None
            while kept_rounds(self.run_dir) != (2,) and time.monotonic() < until:
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, self.limits[1]))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


@pytest.mark.parametrize("whole", ["spire"], indirect=True)
def test_a_run_on_a_full_disk_ends_with_one_sentence_and_goes_on_when_there_is_room(
    whole: tuple[Config, Result],
) -> None:
    config, expected = whole
    disk = FullDisk()
    try:
        with pytest.raises(RunError, match=r"room for .*server\.safetensors.*, got .*: see to it"):
            run_experiment(config, "smoke", disk)
    finally:
        disk.free()
    run_dir = disk.run_dir
    assert run_dir is not None
    assert kept_rounds(run_dir) == (2,)
    assert not list(run_dir.glob("**/*.part"))
    assert comparable(resume_experiment(run_dir, config, Watcher())) == comparable(expected)
    assert points(run_dir) == points(expected.run_dir)


@pytest.mark.parametrize("whole", ["spire"], indirect=True)
def test_a_run_whose_machine_is_gone_goes_on_from_its_copy_on_another(
    whole: tuple[Config, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, storage = whole[1], tmp_path / "storage"
    more = [f"tracking.storage=file://{storage}", f"tracking.root={tmp_path}/gone"]
    gone = crashed(overridden(whole[0], more), 5)
    shutil.rmtree(tmp_path / "gone")
    copy = storage / gone.name
    assert kept_rounds(copy) == (2, 4)
    (checkpoints(copy)[-1] / "manifest.json").unlink()  # as if it had been sent in part
    words = ["resume", f"file://{copy}", f"tracking.root={tmp_path}/new", "--json", "--quiet"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state_fingerprint"] == expected.state_fingerprint
    run_dir = tmp_path / "new" / "runs" / gone.name
    again = [(s, {k: v for k, v in m.items() if "storage" not in k}) for s, m in points(run_dir)]
    assert again == points(expected.run_dir)
    assert read_points(run_dir)[0][1]["storage/failed_uploads"] == 0
    whole_ones = sorted(path.parent.name for path in copy.glob("checkpoints/*/manifest.json"))
    assert whole_ones == ["0000004", "0000006"]


def scaled_weights(path: Path, factor: float) -> None:
    """Write the classifier of MNIST with its last layer scaled: another extractor."""
    weights = load_file(WEIGHTS_DIR / "mnist.safetensors")
    name = sorted(weights)[-1]
    save_file(weights | {name: weights[name] * factor}, path)


@pytest.fixture(scope="module")
def pretrained(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A run with an extractor of its own that has ended with its pre-training."""
    root = tmp_path_factory.mktemp("pretrained")
    scaled_weights(root / "extractor.safetensors", 1.0)
    weights = f"eval.extractor_weights={root}/extractor.safetensors"
    config = small(mnist_root, root, *SIX_ROUNDS, weights)
    return config, crashed(config, "pretrained")


def test_rounds_of_other_extractors_numbers_or_images_are_not_mixed(
    pretrained: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = pretrained
    scaled_weights(tmp_path / "other", 2.0)
    other = overridden(config, [f"eval.extractor_weights={tmp_path}/other"])
    told = "by their extractor_hash"
    with pytest.raises(RunError, match=told):
        resume_experiment(run_dir, other, Watcher())
    with pytest.raises(RunError, match=told):
        finished(other, run_dir)

    with monkeypatch.context() as patch:
        patch.setattr(record, "NUMBERS", record.NUMBERS + 1)
        with pytest.raises(RunError, match="start a new run"):
            finished(config, run_dir)

    setting = prepare(config)
    data = replace(setting.data, sha256="0" * 64)
    monkeypatch.setattr(run, "prepare", lambda config: replace(setting, data=data))
    with pytest.raises(RunError, match="by their data_sha256"):
        finished(config, run_dir)


def test_what_a_result_vouches_for_is_on_the_disk_before_it(
    pretrained: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there before the store is told of the end, which a kill may cut off."""
    config, run_dir = pretrained
    run_dir = Path(shutil.copytree(run_dir, tmp_path / "runs" / run_dir.name))
    synced, told, finish = list[Path](), list[tuple[str, bool]](), Tracker.finish

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    def finishing(tracker: Tracker, status: Status = "FINISHED") -> None:
        told.append((status, load_result(tracker.run_dir) is not None))
        finish(tracker, status)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Tracker, "finish", finishing)
    resume_experiment(run_dir, config, Watcher())
    assert told == [("FINISHED", True)]
    result = max(i for i, path in enumerate(synced) if path.parent == run_dir and path.suffix)
    assert synced[result].suffix == ".part"  # which is then renamed to result.json
    model = run_dir / "model"
    files = {model, *model.rglob("*"), run_dir / "outbox.jsonl"}
    assert len(files) > 4
    assert files <= {*synced[:result]}


def test_points_of_rounds_are_taken_over_with_the_privacy_that_they_spent(tmp_path: Path) -> None:
    rounds = [(step, {"pretrain/loss": 1.0 / step, EPSILON: float(step)}) for step in (1, 2)]
    of_new_clients = {"final/adapt_kid_after": 1.0, EPSILON: 8.0}
    Outbox(tmp_path).append_points([*rounds, (FINAL_STEP, of_new_clients)])
    assert pretraining_points(tmp_path) == rounds

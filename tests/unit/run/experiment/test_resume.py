"""An interrupted run goes on to the same result; so does one that takes over pre-training."""

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

from pipeline.checkpoint.snapshots import checkpoints, kept_rounds
from pipeline.cli.main import main
from pipeline.config.load import load_config, overridden
from pipeline.config.meaning import fingerprint
from pipeline.config.schema import Config
from pipeline.data.glyphs import CHARACTERS, caption_of
from pipeline.experiment import run
from pipeline.experiment.pretraining import rounds_without_numbers
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import RoundDriver
from pipeline.federation.rounds import RoundStats
from pipeline.federation.setup import prepare
from pipeline.results import tables
from pipeline.results.result import Result
from pipeline.runs import record
from pipeline.runs.record import load_result, load_start
from pipeline.tracking.outbox import Outbox, read_points
from pipeline.tracking.tracker import NullTracker, Status, Tracker
from spire_core.errors import RunError
from spire_core.evaluation.classifier import WEIGHTS_DIR

NUM_ROUNDS = 6
TIMED = ("time/", "memory/")
WORDS = ",".join(sorted({word for char in CHARACTERS for word in caption_of(char).split()}))
WITH_TEXT = ("data=fonts", "data.image_size=16", "partition=natural", "model.text=words")
WITH_TEXT += ("eval.extractor=fonts-cnn", "federation.num_clients=4", "client.text_dropout=0.1")
WITH_TEXT += ("federation.num_new_clients=1", "adapt.num_images=8", f"model.words=[{WORDS}]")
EMBEDDING = ["adapt.init=mean", "adapt.draws=2", "adapt.schedule=cosine", "adapt.average=0.5"]
EMBEDDING += ["adapt.guidance=[1,3]"]


class Crash(Exception):
    """What a test ends a run with."""


class Crasher(Watcher):
    """Ends a run after some round, or when pre-training is over."""

    def __init__(self, after_round: int) -> None:
        self.at_round, self.run_dir = after_round, Path()

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        if stats.round_idx + 1 == self.at_round:
            raise Crash

    def pretrained(self, run_dir: Path) -> None:
        if self.at_round > NUM_ROUNDS:
            raise Crash


class Rounds(Watcher):
    """Keeps which rounds were computed."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        self.seen.append(stats.round_idx)


def config_for(mnist_root: Path, root: Path, *overrides: str) -> Config:
    return load_config(
        "smoke",
        [
            f"data.root={mnist_root}",
            f"tracking.root={root}",
            "tracking.enabled=false",
            "tracking.checkpoint_every=2",
            "resources.pool=local",
            f"federation.num_rounds={NUM_ROUNDS}",
            "federation.cohort_size=2",
            "model.width=8",
            "adapt.epochs=2",
            "eval.num_images=8",
            "eval.every=3",
            "eval.num_loss_images=8",
            "eval.num_clients=2",
            "diffusion.sample_steps=2",
            *overrides,
        ],
    )


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


@pytest.fixture(scope="module", params=["spire", "shared_rep", "spire with text"])
def whole(
    request: pytest.FixtureRequest,
    mnist_root: Path,
    fonts_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Config, Result]:
    root = tmp_path_factory.mktemp("whole")
    name, _, text = request.param.partition(" with ")
    method = [f"method={name}", "server.optimizer=fedadam"]
    chances = ["federation.drop_rate=0.4"]
    thin = ["client.compression=top_k", "adapt.local_init=mean"]
    own = {"spire": EMBEDDING, "shared_rep": thin}[name]
    more = WITH_TEXT if text else ()
    settings = (*method, "server.lr=0.01", *chances, *own, *more)
    config = config_for(fonts_root if text else mnist_root, root, *settings)
    return config, run_experiment(config, "smoke", Watcher())


def test_a_run_that_ends_after_every_round_and_goes_on_ends_in_the_same_state(
    whole: tuple[Config, Result],
) -> None:
    """SPIRE's; those of others end after every second round, odd ones and even ones."""
    config, expected = whole
    stops = {"spire": (1, 2, 3, 4, 5, 6, 7), "shared_rep": (1, 3, 5, 7), "text": (2, 4, 6)}
    first, *later = stops[config.method.name if config.model.text == "none" else "text"]
    crasher, stopped = Crasher(first), first
    with pytest.raises(Crash):
        run_experiment(config, "smoke", crasher)
    for after in later:
        assert kept_rounds(crasher.run_dir) == tuple(r for r in (2, 4, 6) if r <= stopped)[-2:]
        stored, preset = load_start(crasher.run_dir)
        assert (fingerprint(stored), preset) == (fingerprint(config), "smoke")
        with pytest.raises(Crash):
            resume_experiment(crasher.run_dir, stored, Crasher(after))
        stopped = after
    result = resume_experiment(crasher.run_dir, config, Watcher())
    assert comparable(result) == comparable(expected)
    assert points(crasher.run_dir) == points(expected.run_dir)


@pytest.mark.parametrize("whole", ["spire", "shared_rep"], indirect=True)
def test_two_crashes_and_a_damaged_checkpoint_change_nothing(
    whole: tuple[Config, Result],
) -> None:
    config, expected = whole
    first = Crasher(5)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", first)
    newest = checkpoints(first.run_dir)[-1] / "server.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(Crash):
        resume_experiment(first.run_dir, config, Crasher(3))
    assert comparable(resume_experiment(first.run_dir, config, Watcher())) == comparable(expected)


def test_coverage_is_worked_out_once(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run does not import scipy for it: it is half a second. It names its own code."""
    calls = []
    found = tables.coverages
    monkeypatch.setattr(tables, "coverages", lambda *a: calls.append(a) or found(*a))
    config, crasher = config_for(mnist_root, tmp_path), Crasher(NUM_ROUNDS + 1)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", crasher)
    assert len(calls) == 1
    told: dict[str, str] = {}
    monkeypatch.setattr(NullTracker, "log_tags", lambda _, tags: told.update(tags))
    monkeypatch.setattr(run, "git_revision", lambda: "later")
    resume_experiment(crasher.run_dir, config, Watcher())
    assert len(calls) == 1
    assert told["git_revision"] == "later"


@pytest.mark.parametrize("whole", ["spire"], indirect=True)
def test_what_a_run_found_is_written_before_it_is_told_to_have_finished(
    whole: tuple[Config, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while the store is waited for leaves a run that has finished everywhere."""
    found, finish = [], Tracker.finish

    def spy(tracker: Tracker, status: Status = "FINISHED") -> None:
        found.append((status, load_result(tracker.run_dir) is not None))
        finish(tracker, status)

    monkeypatch.setattr(Tracker, "finish", spy)
    crasher = Crasher(NUM_ROUNDS + 1)
    with pytest.raises(Crash):
        run_experiment(whole[0], "smoke", crasher)
    resume_experiment(crasher.run_dir, whole[0], Watcher())
    assert found == [("FAILED", False), ("FINISHED", True)]


DAMAGED = {  # what, and after how many rounds the checkpoint was taken that is gone back to
    "clients' newest states": ("clients/*/0000004.safetensors", 2),
    "clients' states of both": ("clients/*/000000[1-4].safetensors", 0),
    "the newest manifest": ("checkpoints/0000004/manifest.json", 2),
    "an evaluation after round 3": ("evaluations/0000003.safetensors", 2),
    "an evaluation that all need": ("evaluations/0000000.safetensors", 0),
}


@pytest.fixture(scope="module")
def crashed(whole: tuple[Config, Result]) -> Path:
    """The folder of a run that has ended in round 5; checkpoints were taken after 2 and 4."""
    crasher = Crasher(5)
    with pytest.raises(Crash):
        run_experiment(whole[0], "smoke", crasher)
    return crasher.run_dir


@pytest.mark.parametrize("whole", ["spire"], indirect=True)
@pytest.mark.parametrize("what", DAMAGED)
def test_a_run_goes_back_to_the_newest_checkpoint_that_is_whole(
    what: str,
    whole: tuple[Config, Result],
    crashed: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, expected = whole
    pattern, back_to = DAMAGED[what]
    run_dir = Path(shutil.copytree(crashed, tmp_path / "runs" / crashed.name))
    paths = sorted(run_dir.glob(pattern))
    for path in paths:
        raw = bytearray(path.read_bytes())
        raw[-5] ^= 4
        path.write_bytes(raw if "client" not in what else raw[: len(raw) // 2])
    rounds = Rounds()
    with caplog.at_level(logging.WARNING):
        result = resume_experiment(run_dir, config, rounds)
    assert rounds.seen == list(range(back_to, NUM_ROUNDS))
    assert any(str(path) in caplog.text for path in paths)
    assert comparable(result) == comparable(expected)
    assert points(run_dir) == points(expected.run_dir)


class FullDisk(Watcher):
    """From some round on no file may grow beyond some size, until `free`."""

    def __init__(self, after_round: int, num_bytes: int) -> None:
        self.at_round, self.num_bytes, self.run_dir = after_round, num_bytes, Path()
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        if stats.round_idx + 1 == self.at_round:
            until = time.monotonic() + 120  # the last checkpoint is written beside the round
            while kept_rounds(self.run_dir) != (2,) and time.monotonic() < until:
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, self.limits[1]))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


FULL = {  # by method, how large files may grow and which cannot be written then
    "spire": ((2_000, "outbox.jsonl"), (100_000, "server.safetensors")),
    "shared_rep": ((30_000, "clients/.*.safetensors"),),
}


@pytest.mark.parametrize("whole", FULL, indirect=True)
def test_a_run_on_a_full_disk_ends_with_one_sentence_and_goes_on_when_there_is_room(
    whole: tuple[Config, Result],
) -> None:
    config, expected = whole
    for num_bytes, file in FULL[config.method.name]:
        disk = FullDisk(3, num_bytes)
        try:
            with pytest.raises(RunError, match=f"expected room for .*{file}.*, got .*: see to it"):
                run_experiment(config, "smoke", disk)
        finally:
            disk.free()
        assert kept_rounds(disk.run_dir) == (2,)
        assert not list(disk.run_dir.glob("**/*.part"))
        result = resume_experiment(disk.run_dir, config, Watcher())
        assert comparable(result) == comparable(expected)
        assert points(disk.run_dir) == points(expected.run_dir)


@pytest.mark.parametrize("whole", ["spire"], indirect=True)
def test_a_run_whose_machine_is_gone_goes_on_from_its_copy_on_another(
    whole: tuple[Config, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, storage = whole[1], tmp_path / "storage"
    more = [f"tracking.storage=file://{storage}", f"tracking.root={tmp_path}/gone"]
    crasher = Crasher(5)
    with pytest.raises(Crash):
        run_experiment(overridden(whole[0], more), "smoke", crasher)
    shutil.rmtree(tmp_path / "gone")
    copy = storage / crasher.run_dir.name
    assert kept_rounds(copy) == (2, 4)
    (checkpoints(copy)[-1] / "manifest.json").unlink()  # as if it had been sent in part
    words = ["resume", f"file://{copy}", f"tracking.root={tmp_path}/new", "--json", "--quiet"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state_fingerprint"] == expected.state_fingerprint
    run_dir = tmp_path / "new" / "runs" / crasher.run_dir.name
    again = [(s, {k: v for k, v in m.items() if "storage" not in k}) for s, m in points(run_dir)]
    assert again == points(expected.run_dir)
    assert read_points(run_dir)[0][1]["storage/failed_uploads"] == 0
    whole_ones = sorted(path.parent.name for path in copy.glob("checkpoints/*/manifest.json"))
    assert whole_ones == ["0000004", "0000006"]


class Intruder(Watcher):
    """Tries to resume a run that goes on, as a second `spire resume` would."""

    def __init__(self) -> None:
        self.run_dir, self.exit_codes = Path(), []

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        if stats.round_idx == 1:
            self.exit_codes.append(main(["resume", str(self.run_dir)]))


@pytest.mark.parametrize("whole", ["spire"], indirect=True)
def test_a_run_that_goes_on_is_not_resumed(
    whole: tuple[Config, Result], capsys: pytest.CaptureFixture[str]
) -> None:
    config, expected = whole
    intruder = Intruder()
    result = run_experiment(config, "smoke", intruder)
    assert intruder.exit_codes == [2]
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("spire resume: expected nobody at work on the run in")
    assert comparable(result) == comparable(expected)


def test_pretraining_is_taken_over_by_a_run_that_shares_it(
    whole: tuple[Config, Result],
) -> None:
    config, leader = whole
    follower = overridden(config, ["adapt.epochs=3"])
    alone = run_experiment(follower, None, Watcher())
    crasher = Crasher(1)  # a round would be seen: there is none
    taken = run_experiment(follower, None, crasher, pretrained=leader.run_dir)
    assert comparable(taken) == comparable(alone)
    assert points(taken.run_dir) == points(alone.run_dir)
    other = overridden(follower, ["federation.tau=1"])
    with pytest.raises(RunError, match="these settings"):
        run_experiment(other, None, Watcher(), pretrained=leader.run_dir)


def test_unfinished_pretraining_is_not_taken_over(mnist_root: Path, tmp_path: Path) -> None:
    config, crasher = config_for(mnist_root, tmp_path), Crasher(5)
    with pytest.raises(Crash):
        run_experiment(config, None, crasher)
    with pytest.raises(RunError, match="got 4"):
        run_experiment(config, None, Watcher(), pretrained=crasher.run_dir)


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
    config, crasher = config_for(mnist_root, root, weights), Crasher(NUM_ROUNDS + 1)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", crasher)
    return config, crasher.run_dir


def test_scores_of_two_extractors_are_not_mixed(
    pretrained: tuple[Config, Path], tmp_path: Path
) -> None:
    config, run_dir = pretrained
    scaled_weights(tmp_path / "other", 2.0)
    other = overridden(config, [f"eval.extractor_weights={tmp_path}/other"])
    with pytest.raises(RunError, match=r"\(by their extractor_hash\)"):
        resume_experiment(run_dir, other, Watcher())
    with pytest.raises(RunError, match=r"\(by their extractor_hash\)"):
        run_experiment(other, None, Watcher(), pretrained=run_dir)


def test_rounds_of_two_versions_of_the_numbers_are_not_mixed(
    pretrained: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = pretrained
    began = record.NUMBERS
    monkeypatch.setattr(record, "NUMBERS", began + 1)
    with pytest.raises(RunError, match=f"with .* .version {began} of its numbers"):
        resume_experiment(run_dir, config, Watcher())
    with pytest.raises(RunError, match="start a new run"):
        run_experiment(config, None, Watcher(), pretrained=run_dir)


def test_pretraining_on_other_images_is_not_taken_over(
    pretrained: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = pretrained
    setting = prepare(config)
    data = replace(setting.data, sha256="0" * 64)
    monkeypatch.setattr(run, "prepare", lambda config: replace(setting, data=data))
    with pytest.raises(RunError, match=r"expected the images .* \(by their data_sha256\)"):
        run_experiment(config, None, Watcher(), pretrained=run_dir)


def test_numbers_that_a_power_cut_took_are_named(
    pretrained: tuple[Config, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, run_dir = pretrained
    run_dir = Path(shutil.copytree(run_dir, tmp_path / "runs" / run_dir.name))
    lines = (run_dir / "outbox.jsonl").read_text().splitlines(keepends=True)
    ends = [i for i, line in enumerate(lines) if '"pretrain/loss"' in line]
    (run_dir / "outbox.jsonl").write_text("".join(lines[: ends[3]]))  # of round 4
    with caplog.at_level(logging.WARNING), pytest.raises(Crash):
        resume_experiment(run_dir, config, Crasher(NUM_ROUNDS + 1))
    named = [r.getMessage() for r in caplog.records if "numbers of rounds" in r.getMessage()]
    assert named == ["the numbers of rounds 4-6 are lost: the result is the same"]


def test_what_a_result_vouches_for_is_on_the_disk_before_it(
    pretrained: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = pretrained
    run_dir = Path(shutil.copytree(run_dir, tmp_path / "runs" / run_dir.name))
    synced: list[Path] = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    resume_experiment(run_dir, config, Watcher())
    result = max(i for i, path in enumerate(synced) if path.parent == run_dir and path.suffix)
    assert synced[result].suffix == ".part"  # which is then renamed to result.json
    model = run_dir / "model"
    files = {model, *model.rglob("*"), run_dir / "outbox.jsonl"}
    assert len(files) > 4
    assert files <= {*synced[:result]}


@pytest.mark.parametrize(
    ("steps", "named"),
    [((1, 2, 3, 4), ""), ((), "1-4"), ((2, 3), "1, 4"), ((1, 4), "2-3"), ((1, 2, 3, 4, 5), "")],
)
def test_lost_rounds_are_counted(steps: tuple[int, ...], named: str, tmp_path: Path) -> None:
    Outbox(tmp_path).append_points([(0, {"pretrain/kid/mean": 1.0})])
    Outbox(tmp_path).append_points([(step, {"time/round_s": 1.0}) for step in steps])
    assert rounds_without_numbers(tmp_path, 4) == named

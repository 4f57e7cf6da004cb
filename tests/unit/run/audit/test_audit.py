"""`spire audit` on the smallest runs: what it finds, where it says so, and what it leaves alone."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from small_runs import finished, small

from pipeline.audit.audit import audit_run, audit_worker, without_hidden
from pipeline.audit.messages import CuriousServer, MessageLeak, attack_messages
from pipeline.audit.models import attack_models
from pipeline.audit.rounds import ObservedRound, observe_rounds
from pipeline.checkpoint.snapshots import newest_checkpoint
from pipeline.cli.tables import number
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config, overridden
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.tracking import TrackingConfig
from pipeline.federation.setup import prepare
from pipeline.inference.saved_run import SavedRun
from pipeline.results.metric_names import AUDITED_TABLE
from pipeline.runs.record import load_start
from pipeline.tracking.mlflow_queries import table_rows
from spire_core.errors import RunError
from sweeps import cli

TINY = ("adapt.epochs=2", "adapt.num_images=8", "eval.extractor=none", "tracking.log_model=false")
SECURE = "federation.secure_aggregation=true"


@pytest.fixture(scope="module")
def run_dir(mnist_root: Path, new_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nearly all tests audit."""
    root = tmp_path_factory.mktemp("audited")
    shutil.copy(new_database, root)
    words = (*TINY, "federation.num_clients=18", "tracking.enabled=true")
    return finished(small(mnist_root, root, *words)).run_dir


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def observed(run_dir: Path, *words: str) -> tuple[ClientWorker, ObservedRound]:
    """Return a further round of a run under other settings, and the worker that has trained it."""
    began, _ = load_start(run_dir)
    worker = audit_worker(prepare(overridden(began, words)), run_dir)
    state = newest_checkpoint(run_dir, pretrain_fingerprint(began))
    assert state is not None
    [found] = observe_rounds(worker, state, 1)
    return worker, found


def leak_of(run_dir: Path, *words: str) -> MessageLeak:
    worker, found = observed(run_dir, *words)
    return attack_messages(worker.model, [found], 1000)


def hashes(folders: Sequence[Path]) -> dict[str, str]:
    files = sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_an_audit_finds_what_is_sent_and_changes_nothing(run_dir: Path, capsys: Any) -> None:
    folders = [run_dir / name for name in ("clients", "checkpoints", "model")]
    before, root = hashes(folders), run_dir.parent.parent
    words = ["audit", run_dir.name, f"tracking.root={root}", "--rounds", "1"]
    assert cli.main([*words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert hashes(folders) == before
    leak, metrics = values["messages"], values["metrics"]
    assert [len(leak["clients"]), leak["cohort_size"], leak["d_emb"]] == [4, 4, 16]
    assert all(client["cos"]["moments"] == 0.0 for client in leak["clients"])
    assert leak["best"] != "moments"
    assert 0.3 < leak["cos"] < 0.93  # signs alone have 0.80
    assert leak["span_members"] > leak["span_others"]
    models = values["models"]
    assert models["num_members"] == models["num_others"] == 2 * 8
    attack = models["attack"]
    assert 0.0 <= attack["auc_low"] <= attack["auc"] <= attack["auc_high"] <= 1.0
    assert metrics["privacy/mia_auc"] == attack["auc"]
    stored = json.loads((run_dir / "audit.json").read_text())
    assert stored == {k: v for k, v in values.items() if k != "artifacts"}
    store = MlflowClient(f"sqlite:///{root}/mlflow.db")
    run = store.get_run(run_dir.name)
    assert run.info.status == "FINISHED"
    assert {k: v for k, v in run.data.metrics.items() if k.startswith("privacy/")} == metrics
    tables = [file.path for file in store.list_artifacts(run_dir.name, "tables")]
    assert "tables/privacy_messages.json" in tables
    clients = table_rows(TrackingConfig(root=str(root)), run_dir.name, AUDITED_TABLE)
    assert [row["client_id"] for row in clients] == models["client_ids"] == [18, 19]
    assert fmean(row["mia_auc"] for row in clients) == pytest.approx(metrics["privacy/mia_auc"])


def test_the_old_messages_give_every_embedding_away(run_dir: Path, capsys: Any) -> None:
    """The question "what if" is answered in words, and recorded in the run's folder alone."""
    outbox, root = (run_dir / "outbox.jsonl").read_bytes(), f"tracking.root={run_dir.parent.parent}"
    words = ["audit", run_dir.name, root, "--rounds", "1", "client.private_moments=none"]
    assert cli.main(words) == 0
    text, values = capsys.readouterr().out, json.loads((run_dir / "audit.json").read_text())
    leak, attack = values["messages"], values["models"]["attack"]
    assert min(client["cos"]["moments"] for client in leak["clients"]) >= 0.99
    assert (leak["best"], leak["identified"]) == ("moments", 1.0)
    assert leak["span_members"] >= 0.99
    assert values["overrides"] == ["client.private_moments=none"]
    assert (run_dir / "outbox.jsonl").read_bytes() == outbox
    assert "moments" in text
    for value in (leak["cos"], leak["span_others"], attack["auc"], attack["tpr"]):
        assert number(value) in text


def test_a_secure_sum_of_sixteen_hides_single_embeddings(run_dir: Path) -> None:
    """In the open, the same attacks tell every embedding from all others, at 0.83."""
    hidden = leak_of(run_dir, "federation.cohort_size=16", SECURE)
    assert hidden.cohort_size == 16
    assert hidden.identified <= 2 / 16  # by chance 1 / 16
    assert hidden.cos < 0.45 < hidden.chance  # two random vectors of 16 numbers: 0.2


def test_members_are_the_images_that_a_client_was_fitted_to(run_dir: Path) -> None:
    """What it set aside for a choice, a fifth of its 8 images here, it never stepped on."""
    began, _ = load_start(run_dir)
    setting = prepare(overridden(began, ["adapt.early_stopping=true"]))
    saved, worker = SavedRun.load(run_dir), audit_worker(setting, run_dir)
    leak = attack_models(worker, saved.weights.numpy(), [18, 19], saved.client_state)
    assert leak.num_members == leak.num_others == 2 * 6


@pytest.mark.slow
def test_eight_images_that_a_client_has_learnt_by_heart_are_found(
    mnist_root: Path, tmp_path: Path
) -> None:
    words = ("adapt.epochs=200", "adapt.eval_every=200", "adapt.lr=0.003")
    words += ("model.width=8", "model.attention=[]", "federation.num_new_clients=1")
    by_heart = finished(small(mnist_root, tmp_path, *TINY, *words, "method=fedavg_ft")).run_dir
    began, _ = load_start(by_heart)
    found = audit_run(by_heart, began, began, (), 1, print)
    assert found.messages is None
    assert found.models is not None
    assert found.models.attack.auc_low > 0.7
    assert set(found.metrics()) == {"privacy/mia_auc", "privacy/mia_tpr"}


def test_an_unfinished_run_or_one_without_checkpoint_is_refused(
    run_dir: Path, tmp_path: Path, capsys: Any
) -> None:
    copy = tmp_path / "runs" / run_dir.name
    shutil.copytree(run_dir, copy)
    words = ["audit", run_dir.name, f"tracking.root={tmp_path}", "tracking.enabled=false"]
    shutil.rmtree(copy / "checkpoints")
    assert cli.main(words) == 2
    assert "expected a checkpoint in" in capsys.readouterr().err
    (copy / "result.json").unlink()
    assert cli.main(words) == 2
    assert "expected a finished run" in capsys.readouterr().err


def test_images_that_are_hidden_are_no_held_out_images_of_an_attack(fonts_root: Path) -> None:
    words = [f"data.root={fonts_root}", "data=fonts", "data.image_size=16", "partition=natural"]
    words += ["federation.num_clients=1", "federation.num_new_clients=1"]
    words += ["federation.cohort_size=1", "adapt.num_images=16", "eval.extractor=none"]
    setting = prepare(load_config("smoke", words))
    assert without_hidden(setting) is setting.partition
    hidden = ["partition.hidden=[Q]", "partition.hidden_from_new=['latin capital letter *']"]
    setting = prepare(load_config("smoke", [*words, *hidden]))
    [client], [before] = without_hidden(setting).new_clients, setting.partition.new_clients
    names = [setting.data.class_names[k] for k in setting.data.labels[client.test]]
    assert not any(name.isupper() for name in names)
    assert len(client.test) == len(before.test) - 26
    assert client.train.tolist() == before.train.tolist()
    hidden_alone = np.setdiff1d(before.test, client.test)
    bare = replace(setting.partition, new_clients=(replace(before, test=hidden_alone),))
    with pytest.raises(RunError, match=r"expected held-out images of client 1 that partition"):
        without_hidden(replace(setting, partition=bare))


@pytest.mark.slow
def test_a_secure_sum_shows_the_mean_of_what_single_messages_show(run_dir: Path) -> None:
    """Of clients that take different numbers of steps."""
    words = ("client.private_moments=none", "client.batch_size=128", "federation.cohort_size=3")
    words += ("federation.tau=null", "federation.local_epochs=1")
    worker, open_round = observed(run_dir, *words)
    _, masked = observed(run_dir, *words, SECURE)
    steps = [message.update.num_steps for message in open_round.messages]
    assert len(set(steps)) > 1
    assert [message.decay for message in open_round.messages] == [0.9**tau for tau in steps]
    server = CuriousServer(worker.model, masked.broadcast, 10)
    expected = server.summed(open_round.messages)
    np.testing.assert_allclose(
        server.summed(masked.messages), expected, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.slow
def test_a_masked_sum_of_a_private_round_is_that_of_clipped_changes(run_dir: Path) -> None:
    words = ("client.opt_state=reset", "client.engine=loop", "federation.cohort_size=18")
    words += ("privacy.rounds.epsilon=8", "privacy.rounds.clip_norm=0.001")
    _, open_round = observed(run_dir, *words)
    _, masked = observed(run_dir, *words, SECURE)
    before = masked.broadcast.weights.astype(np.float64)
    changes = [m.update.weights - before for m in open_round.messages]
    lengths = [np.linalg.norm(change) for change in changes]
    assert min(lengths) > 0.001
    clipped = sum(0.001 * c / length for c, length in zip(changes, lengths, strict=True)) / 18
    mean = masked.messages[0].update.weights - before
    np.testing.assert_allclose(mean, clipped, atol=1e-7)

"""An audit of a finished run, from its folder to its record. It changes nothing else there."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.audit.messages import ATTACKS, MessageLeak, attack_messages
from pipeline.audit.models import ModelLeak, attack_models
from pipeline.audit.rounds import observe_rounds
from pipeline.checkpoint.snapshots import newest_checkpoint
from pipeline.clients.worker import ClientWorker
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.setup import FederationSetup, held_back, prepare
from pipeline.files.atomic import write_json
from pipeline.inference.saved_run import SavedRun
from pipeline.results.metric_names import AUDITED_TABLE, FINAL_STEP
from pipeline.runs.layout import AUDIT
from pipeline.runs.record import check_same, read_record
from pipeline.tracking.tracker import Tracker, finite_values
from spire_core.errors import RunError
from spire_core.partition.split import Partition


@dataclass(frozen=True)
class Audit:
    """What a run gives away: by its messages, and by its adapted models.

    `messages` is None for a method without embeddings or rounds, `models` for one whose new clients
    train nothing. `overrides`: settings other than the run's own.
    """

    run_id: str
    method: str
    messages: MessageLeak | None
    models: ModelLeak | None
    overrides: tuple[str, ...] = ()

    def metrics(self) -> dict[str, float]:
        """Return the tracked numbers by name."""
        found: dict[str, float] = {}
        if leak := self.messages:
            found |= {"privacy/emb_cos": leak.cos, "privacy/emb_cos_chance": leak.chance}
            found |= {"privacy/emb_identified": leak.identified}
            found |= {"privacy/emb_span": leak.span_members}
            found |= {"privacy/emb_span_others": leak.span_others}
        if self.models:
            attack = self.models.attack
            found |= {"privacy/mia_auc": attack.auc, "privacy/mia_tpr": attack.tpr}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values; a number that is not finite becomes None."""
        return finite_values(asdict(self) | {"metrics": self.metrics()})


def audit_run(
    run_dir: Path,
    began: Config,
    audited: Config,
    overrides: Sequence[str],
    num_rounds: int,
    say: Callable[[str], None],
) -> Audit:
    """Return what a finished run gives away.

    `began` is the run's configuration, `audited` the same with `overrides` of how clients train.
    `num_rounds` are simulated. RunError if the run's data, code or checkpoint are not those with
    which it began.
    """
    setting = prepare(audited)
    check_same(run_dir, setting.hashes)
    saved, worker = SavedRun.load(run_dir), audit_worker(setting, run_dir)
    method, messages, models = audited.method.record, None, None
    if method.has_embedding and method.is_federated:
        say(f"simulating {num_rounds} rounds of {audited.federation.cohort_size} clients")
        state = newest_checkpoint(run_dir, pretrain_fingerprint(began))
        if state is None:
            raise RunError(
                f"expected a checkpoint in {run_dir}, got none: audit a run whose checkpoints were "
                "kept"
            )
        rounds = observe_rounds(worker, state, num_rounds)
        times = audited.diffusion.num_timesteps
        messages = attack_messages(worker.model, rounds, times)
    if method.adapt_parts and setting.new_ids:
        say(f"attacking the models of {len(setting.new_ids)} new clients")
        weights = saved.weights.numpy()
        models = attack_models(worker, weights, setting.new_ids, saved.client_state)
    run_id = read_record(run_dir)["run_id"]
    return Audit(run_id, audited.method.name, messages, models, tuple(overrides))


def audit_worker(setting: FederationSetup, run_dir: Path) -> ClientWorker:
    """Return a worker with the run's clients; it is asked for nothing that stores a state."""
    fields = (without_hidden(setting), setting.extractor, run_dir, setting.tokens)
    setup = WorkerSetup(setting.config, {}, *fields, backbone_hash=setting.backbone_hash)
    return ClientWorker(setup, setting.images)


def without_hidden(setting: FederationSetup) -> Partition:
    """Return the partition without the images that new clients hold back.

    No member is of their kind, so that an attack would tell kinds apart, and not members. RunError
    if a new client has no other held-out images.
    """
    back = held_back(setting.data, setting.config)
    is_hidden, partition = back.by_all | back.by_new, setting.partition
    if not is_hidden.any():
        return partition
    new = tuple(replace(one, test=one.test[~is_hidden[one.test]]) for one in partition.new_clients)
    if bare := [client.client_id for client in new if len(client.test) == 0]:
        raise RunError(
            f"expected held-out images of client {bare[0]} that partition.hidden and "
            "hidden_from_new do not hide, got none: audit a run with other settings"
        )
    return replace(partition, new_clients=new)


def record_audit(run_dir: Path, audit: Audit) -> Path:
    """Write an audit into its run's folder and append it to the run's entries; return the file.

    Metrics are those of the first audit: a step of a metric is recorded once. The file and the
    tables are replaced. An audit of other settings than the run's own is in the file alone.
    """
    path = run_dir / AUDIT
    write_json(path, audit.as_dict())
    if audit.overrides:
        return path
    record = read_record(run_dir)
    log = Tracker(record["run_id"], run_dir, keeps_all=record["tracked"])
    log.log_metrics(audit.metrics(), FINAL_STEP)
    if leak := audit.messages:
        columns: dict[str, list[Any]] = {"client_id": [c.client_id for c in leak.clients]}
        columns |= {f"cos_{name}": [c.cos[name] for c in leak.clients] for name in ATTACKS}
        log.log_table("tables/privacy_messages.json", pd.DataFrame(columns))
    if models := audit.models:
        aucs = {"client_id": models.client_ids, "mia_auc": models.attack.client_aucs}
        log.log_table(AUDITED_TABLE, pd.DataFrame(aucs))
    return path

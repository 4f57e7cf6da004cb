"""An audit of a finished run, from its folder to its outcome. It changes nothing that is stored."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.audit.embedding_attacks import MessageLeak, attack_messages
from pipeline.audit.membership import attack_models
from pipeline.audit.outcome import Audit
from pipeline.audit.round_messages import observe_rounds
from pipeline.checkpoint.snapshots import newest_checkpoint
from pipeline.clients.worker import ClientWorker
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.partitioning import held_back
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.start import check_same
from spire_core.errors import RunError
from spire_core.partition.split import Partition

Say = Callable[[str], None]


def audit_run(
    run_dir: Path,
    began: Config,
    audited: Config,
    overrides: Sequence[str],
    num_rounds: int,
    say: Say,
) -> Audit:
    """Return what a finished run gives away.

    `began` is the run's configuration, `audited` the same with `overrides` of how clients train.
    `num_rounds` are simulated. RunError if the run's data, code or checkpoint are not those with
    which it began.
    """
    setting = prepare(audited)
    check_same(run_dir, setting.hashes)
    saved, worker = SavedRun.load(run_dir), _worker(setting, run_dir)
    weights, method = saved.weights.numpy(), audited.method.record
    messages = models = None
    if method.has_embedding and method.is_federated:
        say(f"simulating {num_rounds} rounds of {audited.federation.cohort_size} clients")
        messages = _messages(worker, run_dir, began, num_rounds)
    if method.adapt_parts and setting.new_ids:
        say(f"attacking the models of {len(setting.new_ids)} new clients")
        models = attack_models(worker, weights, setting.new_ids, saved.client_state)
    return Audit(run_dir.name, audited.method.name, messages, models, tuple(overrides))


def _worker(setting: FederationSetup, run_dir: Path) -> ClientWorker:
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


def _messages(worker: ClientWorker, run_dir: Path, began: Config, num_rounds: int) -> MessageLeak:
    state = newest_checkpoint(run_dir, pretrain_fingerprint(began))
    if state is None:
        raise RunError(
            f"expected a checkpoint in {run_dir}, got none: audit a run whose checkpoints were kept"
        )
    config = worker.setup.config
    rounds = observe_rounds(worker, state, num_rounds)
    times = config.diffusion.num_timesteps
    return attack_messages(worker.context.model, rounds, times)

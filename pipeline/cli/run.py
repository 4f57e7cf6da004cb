"""The verbs `spire run` and `spire resume`."""

import argparse
import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.cli.command import Answer, add_anew, add_verb, say
from pipeline.cli.presets import (
    add_preset,
    check_source,
    fetch_if_missing,
    preset_and_settings,
    warn_of_store,
)
from pipeline.cli.words import allowed
from spire_core.errors import ConfigError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.cluster.actor_plan import ActorPlan
    from pipeline.config.schema import Config
    from pipeline.config.tracking import TrackingConfig
    from pipeline.experiment.watcher import Watcher
    from pipeline.results.result import Result

CHANGEABLE = ("tracking.", "resources.", "federation.client_timeout_s=", "data.root=")
CHANGEABLE += ("eval.extractor_weights=",)  # by a run that goes on

# --- the verbs ----------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> Answer:
    """Run one experiment, or with `--dry-run` describe it."""
    from pipeline.config.meaning import load_typed

    preset, overrides = preset_and_settings(args.words)
    config = load_typed(preset, [*overrides, *(["tracking.profile=true"] * args.profile)])
    if args.profile and not config.method.record.is_federated:
        raise ConfigError(
            f"expected a method with rounds to profile, got {config.method.name}: leave out "
            "--profile"
        )
    if args.dry_run:
        return _dry_run(config, preset)
    from pipeline.experiment.launch import ready_for

    with ready_for(config, say):
        from pipeline.experiment.run import run_experiment

        with _watched(args.quiet) as watcher:
            return _finished(run_experiment(config, preset, watcher), preset)


def resume(args: argparse.Namespace) -> Answer:
    """Resume an interrupted run; print the result of a finished one again."""
    from pipeline.config.load import load_config
    from pipeline.runs.record import find_run, load_result, load_resumed

    overrides = allowed(args.words, CHANGEABLE)
    given = load_config(None, overrides).tracking
    if "://" in args.run:
        from pipeline.checkpoint.remote import restore, storage_of

        run_dir = restore(args.run, given, say)
        if not any(word.startswith("tracking.storage=") for word in overrides):
            given = replace(given, storage=storage_of(args.run, run_dir))
    else:
        run_dir = find_run(args.run, given)
    if (result := load_result(run_dir)) is not None:
        end_finished(run_dir, given)
        run_id = result["run_id"]
        if args.anew:
            raise RunError(
                f"expected an interrupted run with --anew, got {run_id}, which has finished: spire "
                f"sync {run_id} --anew delivers it"
            )
        return Answer(f"run {run_id} has finished: spire sample {run_id}", result)
    from pipeline.experiment.launch import ready_for

    config, preset = load_resumed(run_dir, given, overrides)
    with ready_for(config, say, begins=False):
        from pipeline.experiment.run import resume_experiment

        with _watched(args.quiet) as watcher:
            result = resume_experiment(run_dir, config, watcher, preset=preset, is_anew=args.anew)
            return _finished(result, preset)


# --- what they share ----------------------------------------------------------------------------


def end_finished(run_dir: "Path", given: "TrackingConfig") -> None:
    """Do the rest for a finished run that was stopped right at its end: its key, its status."""
    from pipeline.cli.sync import sync_runs
    from pipeline.runs.noise_key import drop_noise_key
    from pipeline.runs.record import read_record, run_lock
    from pipeline.tracking.outbox import Outbox

    drop_noise_key(run_dir)
    if not (read_record(run_dir)["tracked"] and given.enabled):
        return
    outbox = Outbox(run_dir)
    if outbox.status != "FINISHED":
        with contextlib.suppress(RunError), run_lock(run_dir):  # unless its process does it
            outbox.append("status", status="FINISHED")
            for synced in sync_runs(given, [run_dir]):
                say(synced.text)


def _dry_run(config: "Config", preset: str) -> Answer:
    from pipeline.cli.setup_text import setting_json, setting_text
    from pipeline.experiment.estimate import run_seconds
    from pipeline.federation.setup import check_drawing, prepare
    from pipeline.runs.record import located

    config = located(config)
    check_source(config.data.name, config.data.path)
    fetch_if_missing(config.data.name, config.data.root, config.data.path)
    warn_of_store(config.tracking)
    check_drawing(config)
    plan, setting = _plan(config), prepare(config)
    num_cpus = 1.0 if plan is None else plan.num_actors * min(1.0, plan.num_cpus)
    description = setting_json(setting, preset, plan, run_seconds(config, num_cpus))
    return Answer(setting_text(description, plan), description)


def _plan(config: "Config") -> "ActorPlan | None":
    """Return the client actors of a run, on the cluster at RAY_ADDRESS or else on this machine."""
    from pipeline.cluster.actor_plan import most_useful_actors, plan_here, plan_on_nodes

    if config.resources.pool == "local" or not os.environ.get("RAY_ADDRESS"):
        return plan_here(config)
    from pipeline.cluster import session

    with session.cluster():
        nodes = session.cluster_nodes()
        return plan_on_nodes(config.resources, nodes, most_useful_actors(config))


@contextlib.contextmanager
def _watched(is_quiet: bool) -> "Iterator[Watcher]":
    """Yield who watches a run; an interrupt says how to go on with one that has begun."""
    from pipeline.cli.progress import Progress
    from pipeline.experiment.watcher import Watcher

    with contextlib.closing(Watcher() if is_quiet else Progress()) as watcher:
        try:
            yield watcher
        except KeyboardInterrupt as interrupt:
            if watcher.run_dir is None:
                raise
            name = watcher.run_dir.name
            raise KeyboardInterrupt(
                f"spire resume {name} goes on from its last round"
            ) from interrupt


def _finished(result: "Result", preset: str | None) -> Answer:
    from pipeline.cli.result_text import result_table
    from pipeline.results.files import result_json

    return Answer(result_table(result), result_json(result, preset))


# --- what can be typed --------------------------------------------------------------------------


def add_run(verbs: Any) -> None:
    """Add the verb `run`."""
    parser = add_verb(verbs, "run", run, "run one experiment end to end")
    add_preset(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print config, partition and resources, and stop"
    )
    text = "write a torch.profiler trace of a few rounds into the run's folder"
    parser.add_argument("--profile", action="store_true", help=text)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def add_resume(verbs: Any) -> None:
    """Add the verb `resume`."""
    parser = add_verb(verbs, "resume", resume, "go on with an interrupted run")
    text = "a run's id, name or folder, or last; or its copy, as <tracking.storage>/<run id>"
    parser.add_argument("run", metavar="RUN", help=text)
    text = "settings of tracking.*, resources.*, data.root, eval.extractor_weights and "
    text += "federation.client_timeout_s"
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help=text)
    add_anew(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")

"""The verbs `spire run` and `spire resume`."""

import os
from typing import TYPE_CHECKING

from click import argument, option

import spire
from pipeline.cli.command import Answer, anew, one_line, say, verb
from pipeline.cli.words import (
    DEFAULT_PRESET,
    Words,
    offered,
    preset_and_settings,
    presets_and_keys,
    runs,
)
from pipeline.config.load import preset_names
from pipeline.config.meaning import load_typed
from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.runs.record import load_result, located
from spire_core.errors import RunError, SpireError

if TYPE_CHECKING:
    from pipeline.cluster.actor_plan import ActorPlan
    from pipeline.config.schema import Config
    from pipeline.results.result import Result

PRESETS = f"Presets: {', '.join(preset_names())}; {DEFAULT_PRESET} unless one is named."
quiet = option("--quiet", is_flag=True, help="Show no progress.")
with_preset = argument(
    "words", nargs=-1, metavar="[PRESET] [KEY=VALUE]...", shell_complete=offered(presets_and_keys)
)


@verb(epilog=PRESETS)
@with_preset
@option("--dry-run", is_flag=True, help="Print config, partition and resources, and stop.")
@option("--profile", is_flag=True, help="Write a torch.profiler trace of a few rounds.")
@quiet
def run(words: Words, dry_run: bool, profile: bool, quiet: bool) -> Answer:
    """Run one experiment end to end, with settings such as client.lr=0.001."""
    preset, settings = preset_and_settings([*words, *["tracking.profile=true"] * profile])
    if dry_run:
        return _dry_run(preset, settings)
    return _finished(spire.run(preset, settings, is_quiet=quiet))


@verb()
@argument("run", shell_complete=offered(runs))
@argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@anew
@quiet
def resume(run: str, words: Words, anew: bool, quiet: bool) -> Answer:
    """Go on with an interrupted run; print the result of a finished one again.

    RUN is a run's id, name or folder, or last; or its copy, as <tracking.storage>/<run id>.
    Settings are those of tracking.*, resources.*, data.root, eval.extractor_weights and
    federation.client_timeout_s.
    """
    try:
        return _finished(spire.resume(run, words, is_anew=anew, is_quiet=quiet))
    except spire.FinishedError as ended:
        run_id = ended.result["run_id"]
        if anew:
            raise RunError(
                f"expected an interrupted run with --anew, got {run_id}, which has finished: spire "
                f"sync {run_id} --anew delivers it"
            ) from ended
        return Answer(f"run {run_id} has finished: spire sample {run_id}", ended.result)


def _finished(result: "Result") -> Answer:
    from pipeline.cli.result_text import result_table

    return Answer(result_table(result), load_result(result.run_dir) or {})


def _dry_run(preset: str, words: list[str]) -> Answer:
    from pipeline.cli.setup_text import setting_json, setting_text
    from pipeline.data.fetch import check_source, fetch_if_missing
    from pipeline.experiment.estimate import run_seconds
    from pipeline.federation.setup import prepare

    config = located(load_typed(preset, words))
    check_source(config.data.name, config.data.path)
    fetch_if_missing(config.data.name, config.data.root, config.data.path, say)
    warn_of_store(config.tracking)
    plan, setting = _plan(config), prepare(config)
    num_cpus = 1.0 if plan is None else plan.num_actors * min(1.0, plan.num_cpus)
    description = setting_json(setting, preset, plan, run_seconds(config, num_cpus))
    return Answer(setting_text(description, plan), description)


def warn_of_store(config: TrackingConfig) -> None:
    """Say that a tracking server does not answer; a dry run needs none, and a run does."""
    if config.enabled and tracking_uri(config).startswith(("http://", "https://")):
        from pipeline.tracking.tracker import check_store

        try:
            check_store(config)
        except SpireError as error:
            say(f"a run would end at once: {one_line(str(error))}")


def _plan(config: "Config") -> "ActorPlan | None":
    """Return the client actors of a run, on the cluster at RAY_ADDRESS or else on this machine."""
    from pipeline.cluster.actor_plan import most_useful_actors, plan_here, plan_on_nodes

    if config.resources.pool == "local" or not os.environ.get("RAY_ADDRESS"):
        return plan_here(config)
    from pipeline.cluster import session

    with session.cluster():
        nodes = session.cluster_nodes()
        return plan_on_nodes(config.resources, nodes, most_useful_actors(config))

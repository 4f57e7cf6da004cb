"""The command `spire` with the verbs of this package: `sweep`, `plan` and `report`."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from click import IntRange, argument, option

import spire
from pipeline.cli.command import INTERRUPTED, Answer, one_line, say, verb
from pipeline.cli.main import main as pipeline_main
from pipeline.cli.tables import change, duration, table
from pipeline.cli.words import Words, keys, offered, split_words
from pipeline.config.tracking import ui_text
from pipeline.runs.record import experiment_of
from spire_core.errors import ConfigError, SpireError
from sweeps.design.config import SweepConfig, load_sweep, sweep_names

if TYPE_CHECKING:
    from sweeps.design.points import Trial
    from sweeps.execution.study import Study
    from sweeps.sweep import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run `spire` with these arguments (None: the process's own) and return its exit code."""
    return pipeline_main(argv, MORE_VERBS)


@verb(epilog=f"Sweeps by name: {', '.join(sweep_names())}.")
@argument("file", metavar="FILE_OR_NAME", shell_complete=offered(sweep_names))
@argument("words", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=offered(keys))
@option("--dry-run", is_flag=True, help="Print what spire plan prints, and stop.")
@option("--retry-failed", is_flag=True, help="Try failed trials again as well.")
def sweep(file: str, words: Words, dry_run: bool, retry_failed: bool) -> Answer:
    """Run a sweep from a YAML file, or one of ours by name; the same command goes on with it.

    Settings are of the sweep, such as seeds=[0,1], or of every trial, such as client.lr=0.001.
    """
    if dry_run:
        return _planned(file, words, retry_failed, None)
    outcome = spire.sweep(file, words, retry_failed=retry_failed)
    values = outcome_json(outcome)
    text = outcome_text(values) + _reported(outcome, values)
    code = 1 if values["num_failed"] else INTERRUPTED if values["num_unfinished"] else 0
    return Answer(text, values, code)


def _reported(outcome: "Outcome", values: dict[str, Any]) -> str:
    """Return the report of a sweep as text, or why there is none; "" if nothing has finished."""
    from sweeps.report.make import make_report

    if not (outcome.sweep.report and outcome.tracking.enabled and values["num_finished"]):
        return ""
    sweep = values["parent_run_id"] or values["name"]  # its folder may have been deleted meanwhile
    try:
        written = make_report(outcome.tracking, [sweep])
    except (SpireError, OSError) as error:  # the trials and their runs are there all the same
        return f"\n\nno report: {error}"
    values["artifacts"] = {"report": str(written.html)}
    where = ui_text(outcome.tracking, experiment_of(outcome.study.parent_run_dir))
    return f"\n\n{written.text()}\nlook at it all  {where}"


@verb(epilog=f"Sweeps by name: {', '.join(sweep_names())}.")
@argument("file", metavar="FILE_OR_NAME", shell_complete=offered(sweep_names))
@argument("words", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=offered(keys))
@option("--gpus", metavar="NODESxGPUS", help="Nodes and the GPUs of each, such as 4x8.")
@option("--cpus", type=IntRange(1), help="CPUs of each of these nodes (8 for each GPU).")
def plan(file: str, words: Words, gpus: str | None, cpus: int | None) -> Answer:
    """Say what a sweep needs of a cluster, how long it takes, and whether GPUs stay idle.

    Without --gpus, of the cluster or the machine that is here. A step is timed on one CPU of this
    machine, or on one GPU if it has one.
    """
    return _planned(file, words, False, None if gpus is None else nodes_of(gpus, cpus))


def nodes_of(gpus: str, num_cpus: int | None) -> list[dict[str, float]]:
    """Return the resources of nodes as `--gpus` names them: 4x8, or 8 for one node."""
    found = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", gpus)
    if found is None:
        raise ConfigError(f"expected --gpus as NODESxGPUS, such as 4x8, got {gpus}: change it")
    num_nodes, num_gpus = int(found[1] or 1), int(found[2])
    return [{"CPU": float(num_cpus or 8 * num_gpus), "GPU": float(num_gpus)}] * num_nodes


def _planned(
    file: str, words: Words, retry_failed: bool, nodes: "Sequence[Mapping[str, float]] | None"
) -> Answer:
    """Answer with the plan of a sweep on these nodes; without any, on those that are there."""
    from pipeline.cluster.actor_plan import present_nodes
    from sweeps.execution.study import Study
    from sweeps.sweep import base_config

    sweep = load_sweep(file, words)
    grows = sweep.autoscaling
    study = Study.of(sweep, base_config(sweep).tracking)
    if nodes is not None:
        sweep = replace(sweep, autoscaling=False)  # it has grown to these
    say(f"{sweep.name}: timing a step of each kind of trial here; large networks take minutes")
    values = plan_json(sweep, study, nodes or present_nodes(), retry_failed)
    settings = values["better"] or (values["settings"] if grows else [])
    changed = {word.partition("=")[0] for word in settings}
    kept = [word for word in words if word.partition("=")[0] not in changed]
    values["command"] = shlex.join(["spire", "sweep", file, *kept, *settings])
    return Answer(f"{plan_text(values)}\n{values['command']}", values)


@verb()
@argument("words", nargs=-1, metavar="[SWEEP | RUN]... [KEY=VALUE]...")
@option("--out", metavar="DIR", help="The folder (<root>/reports/NAME unless given).")
def report(words: Words, out: str | None) -> Answer:
    """Write tables and figures of a sweep, or of runs, out of the tracking store.

    They are named by name or id; without a name it is the last sweep. Settings are those of
    tracking.*.
    """
    names, settings = split_words(words)
    written = spire.report(names or "last", settings, out)
    return Answer(written.text(), written.values())


MORE_VERBS = (sweep, plan, report)


# --- a sweep before it runs -----------------------------------------------------------------------


def plan_json(
    sweep: SweepConfig,
    study: "Study",
    nodes: Sequence[Mapping[str, float]],
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Return the trials of a sweep, each with its status and with what it asks of these nodes.

    The estimate covers the trials that are left. Of a search, these are the trials at the axes'
    ends, by which draws still to be made are estimated. `settings`: those that fix the plan of the
    first; `better`: those that give work to more GPUs.
    """
    from pipeline.cluster.actor_plan import total
    from sweeps.design.points import probes
    from sweeps.design.trial_plan import better_words, concurrency, estimate, plan_trial
    from sweeps.sweep import check_trials, read_progress, told_equal

    progress = read_progress(sweep, study)
    left = progress.left(retry_failed)
    check_trials(sweep, progress, left, is_new=study.parent_run_dir is None)
    shown = probes(sweep) if sweep.is_drawn else progress.trials
    to_run = [*left, *islice(cycle(shown), progress.num_undrawn)]
    at_once = concurrency(sweep, to_run or shown, nodes)
    plans = {
        trial.trial_id: plan_trial(trial.config, nodes, at_once, sweep.autoscaling)
        for trial in [*to_run, *shown]
    }
    left_to_run = [(trial, plans[trial.trial_id]) for trial in to_run]
    found = estimate(left_to_run, at_once, nodes, progress.with_status("finished"))
    used = sum(plan.num_gpus for _, plan in left_to_run[:at_once])
    better = better_words([trial for trial, _ in left_to_run[:at_once]], nodes, used)
    return {
        "name": sweep.name,
        "preset": sweep.preset,
        "search": sweep.search,
        "num_trials": progress.num_trials,
        "num_to_run": len(to_run),
        "equal": told_equal(sweep, progress.num_trials),
        "concurrency": at_once,
        "nodes": [{name: node.get(name, 0.0) for name in ("CPU", "GPU")} for node in nodes],
        "gpus": {
            "all": total(nodes, "GPU"),
            "used": used,
            "trials_on_each": used and at_once / used,
        },
        "settings": plans[shown[0].trial_id].workers.words,
        "better": better,
        "estimate_s": found.seconds,
        "measured": [vars(costs) for costs in found.measured],
        "trials": [
            {
                "trial_id": trial.trial_id,
                "label": trial.label,
                "status": study.status(trial.trial_id),
                "overrides": list(trial.overrides),
                "resources": plans[trial.trial_id].bundles,
                "needs": plans[trial.trial_id].describe(),
            }
            for trial in shown
        ],
    }


def plan_text(values: Mapping[str, Any]) -> str:
    """Return the values of `plan_json` as a table."""
    columns = {"trial": "trial_id", "what": "label", "status": "status", "needs": "needs"}
    kind = "trials" if values["search"] == "grid" else "trials to draw; those at the axes' ends"
    num_trials, num_to_run = values["num_trials"], values["num_to_run"]
    left = "" if num_to_run == num_trials else f", {num_to_run} of them left"
    kinds = Counter(f"{node['CPU']:g} CPU, {node['GPU']:g} GPU" for node in values["nodes"])
    nodes = "; ".join(f"{count} x ({kind})" for kind, count in kinds.items())
    measured, timed = values["measured"], ""
    device = "GPU" if any(one["device"] == "cuda" for one in measured) else "CPU"
    time = f"about {duration(values['estimate_s'])} on {device}s such as this machine's"
    if values["gpus"]["used"] and device == "CPU":
        time = f"no hours for GPUs, since a CPU was timed ({time}): plan on a node with a GPU"
    if measured:
        seconds = sorted(one["num_images"] * one["train_s"] for one in measured)
        most = max(one["peak_bytes"] for one in measured)
        timed = f"a step on a {device} here: {seconds[0]:.2g} to {seconds[-1]:.2g} s, "
        timed += f"up to {most / 2**20:.0f} MiB of memory"
    lines = [
        f"sweep {values['name']} on {values['preset']}: {num_trials} {kind}{left}, "
        f"{values['concurrency']} at once on {nodes}",
        table(values["trials"], columns),
        values["equal"],
        _gpus_text(values),
        timed,
        time,
    ]
    return "\n".join(filter(None, lines))


def _gpus_text(values: Mapping[str, Any]) -> str:
    """Return how many GPUs have work, and what gives some to the others."""
    gpus, words = values["gpus"], values["better"]
    if not gpus["all"]:
        return ""
    of_each = f", {gpus['used'] / values['concurrency']:.2g} for each trial" if gpus["used"] else ""
    told = f"{gpus['used']:.3g} of {gpus['all']:g} GPUs have work{of_each}"
    if words:
        return f"{told}; more with {' '.join(words)}"
    if gpus["used"] > gpus["all"] - 1:
        return told
    is_room = values["concurrency"] == values["num_to_run"]
    others = "more seeds or values would use" if is_room else "CPUs or concurrency hold back"
    return f"{told}; {others} the others"


# --- a sweep at the end of a command --------------------------------------------------------------


def outcome_json(outcome: "Outcome") -> dict[str, Any]:
    """Return the outcome of a sweep, trial by trial."""
    progress, best, parent = outcome.after, outcome.after.best(), outcome.study.parent_run_dir
    counts = {s: len(progress.with_status(s)) for s in ("finished", "failed", "stopped")}
    return {
        "name": outcome.sweep.name,
        "parent_run_id": None if parent is None else parent.name,
        "num_trials": progress.num_trials,
        **{f"num_{status}": count for status, count in counts.items()},
        "num_unfinished": len(progress.with_status("unfinished")) + progress.num_undrawn,
        "num_skipped": len(outcome.before.with_status("finished")),
        "metric": outcome.sweep.metric,
        "best_trial_id": None if best is None else best.trial_id,
        "trials": [_row(outcome, trial) for trial in progress.trials],
        "folder": str(outcome.study.folder),
    }


def _row(outcome: "Outcome", trial: "Trial") -> dict[str, Any]:
    trial_id, study = trial.trial_id, outcome.study
    run_dir, result = study.run_dir(trial_id), outcome.after.results.get(trial_id, {})
    return {
        "trial_id": trial_id,
        "label": trial.label,
        "method": trial.config.method.name,
        "seed": trial.config.seed,
        "point": trial.point,
        "overrides": list(trial.overrides),
        "status": outcome.after.statuses[trial_id],
        "run_id": None if run_dir is None else run_dir.name,
        "error": study.error(trial_id),
        "state_fingerprint": result.get("state_fingerprint"),
        "metrics": result.get("metrics", {}),
        "samples": result.get("artifacts", {}).get("samples"),
    }


def outcome_text(values: Mapping[str, Any]) -> str:
    """Return the values of `outcome_json` as a table, with a line for each failure."""
    counts = ", ".join(
        f"{values[f'num_{status}']} {status}"
        for status in ("finished", "failed", "stopped", "unfinished")
        if values[f"num_{status}"] or status == "finished"
    )
    before = f" ({values['num_skipped']} of them before)" if values["num_skipped"] else ""
    best = f"\n* best by {values['metric']}" if values["best_trial_id"] else ""
    rows = [_cells(row, row["trial_id"] == values["best_trial_id"]) for row in values["trials"]]
    parts = [f"sweep {values['name']}: {counts}{before}"]
    parts.append(table(rows, {name: name for name in rows[0]}) + best if rows else "")
    failed = [row for row in values["trials"] if row["status"] == "failed"]
    parts += [f"{row['label']} failed: {one_line(row['error'])}" for row in failed]
    if failed:
        parts.append("the same command with --retry-failed tries them again")
    if values["num_unfinished"]:
        parts.append("the same command goes on with what is unfinished")
    return "\n\n".join(filter(None, parts))


def _cells(row: Mapping[str, Any], is_best: bool) -> dict[str, Any]:
    metrics = row["metrics"]
    before, after = (metrics.get(f"final/adapt_kid_{when}") for when in ("before", "after"))
    return {
        "trial": row["trial_id"],
        "what": row["label"] + " *" * is_best,
        "status": row["status"],
        "KID": metrics.get("final/pretrain_kid_mean"),
        "new clients' KID": change(before, after),
        "TV": metrics.get("final/adapt_tv_after"),
        "held-out": metrics.get("final/adapt_heldout_after"),
        "state": (row["state_fingerprint"] or "-")[:8],
    }

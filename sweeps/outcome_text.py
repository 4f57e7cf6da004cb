"""The answers of `spire sweep`, before a sweep runs and at its end, as JSON and as text."""

from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

import pandas as pd

from pipeline.cli.command import one_line
from pipeline.cli.tables import change, duration, number
from sweeps.design.config import SweepConfig
from sweeps.design.estimate import sweep_seconds
from sweeps.design.points import Trial, probes
from sweeps.design.trial_plan import TrialPlan, concurrency, plan_trial
from sweeps.execution.study import Study
from sweeps.sweep import Outcome, check_trials, read_progress, told_equal

CLOCKED = ("duration", "time/", "memory/")  # in names of numbers that no seed determines


def plan_json(
    sweep: SweepConfig,
    recorded: SweepConfig,
    study: Study,
    cluster: Mapping[str, float],
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Return the trials of a sweep, each with its status and with what it asks of the cluster.

    The estimate covers the trials that are left. Of a search, these are the trials at the axes'
    ends, by which draws still to be made are estimated.
    """
    progress = read_progress(sweep, study)
    left = progress.left(retry_failed)
    check_trials(sweep, progress, left, recorded, is_new=study.parent_run_dir is None)
    shown = probes(sweep) if sweep.is_drawn else progress.trials
    to_run = [*left, *islice(cycle(shown), progress.num_undrawn)]
    at_once = concurrency(sweep, to_run or shown, cluster)

    def plan(trial: Trial) -> TrialPlan:
        return plan_trial(trial.config, cluster, at_once, sweep.autoscaling)

    plans = [(trial, plan(trial)) for trial in to_run]
    return {
        "name": sweep.name,
        "preset": sweep.preset,
        "search": sweep.search,
        "num_trials": progress.num_trials,
        "num_to_run": len(to_run),
        "equal": told_equal(sweep, progress.num_trials),
        "concurrency": at_once,
        "cluster": {name: cluster[name] for name in ("CPU", "GPU") if name in cluster},
        "estimate_s": sweep_seconds(plans, at_once, progress.with_status("finished")),
        "trials": [
            {
                "trial_id": trial.trial_id,
                "label": trial.label,
                "status": "new" if study.is_new(trial.trial_id) else study.status(trial.trial_id),
                "overrides": list(trial.overrides),
                "resources": plan(trial).bundles,
                "needs": plan(trial).describe(),
                "shares_pretraining": trial.shares_pretraining,
            }
            for trial in shown
        ],
    }


def plan_text(values: Mapping[str, Any]) -> str:
    """Return the values of `plan_json` as a table."""
    table = pd.DataFrame(values["trials"])
    table["pre-training"] = table.shares_pretraining.map({True: "shared", False: "own"})
    table = table[["trial_id", "label", "status", "needs", "pre-training"]]
    cluster = ", ".join(f"{amount:g} {name}" for name, amount in values["cluster"].items())
    kind = "trials" if values["search"] == "grid" else "trials to draw; those at the axes' ends"
    num_trials, num_to_run = values["num_trials"], values["num_to_run"]
    left = "" if num_to_run == num_trials else f", {num_to_run} of them left"
    lines = [
        f"sweep {values['name']} on {values['preset']}: {num_trials} {kind}{left}, "
        f"{values['concurrency']} at once on {cluster}",
        table.rename(columns={"trial_id": "trial", "label": "what"}).to_string(index=False),
        values["equal"],
        f"about {duration(values['estimate_s'])} on CPUs such as this machine's, by a few timed "
        "steps",
    ]
    return "\n".join(filter(None, lines))


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome of a sweep, trial by trial."""
    progress, best = outcome.after, outcome.after.best()
    counts = {s: len(progress.with_status(s)) for s in ("finished", "failed", "stopped")}
    return {
        "name": outcome.sweep.name,
        "parent_run_id": outcome.parent_run_id,
        "num_trials": progress.num_trials,
        **{f"num_{status}": count for status, count in counts.items()},
        "num_unfinished": len(progress.with_status("unfinished")) + progress.num_undrawn,
        "num_skipped": outcome.num_skipped,
        "metric": outcome.sweep.metric,
        "best_trial_id": None if best is None else best.trial_id,
        "trials": [_row(outcome, trial) for trial in progress.trials],
        "folder": str(outcome.study.folder),
    }


def _row(outcome: Outcome, trial: Trial) -> dict[str, Any]:
    trial_id, study = trial.trial_id, outcome.study
    run_dir, result = study.run_dir(trial_id), outcome.after.results.get(trial_id, {})
    metrics = {
        name: value
        for name, value in result.get("metrics", {}).items()
        if not any(part in name for part in CLOCKED)
    }
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
        "metrics": metrics,
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
    table = pd.DataFrame([_cells(row, values["best_trial_id"]) for row in values["trials"]])
    parts = [f"sweep {values['name']}: {counts}{before}", table.to_string(index=False) + best]
    failed = [row for row in values["trials"] if row["status"] == "failed"]
    parts += [f"{row['label']} failed: {one_line(row['error'])}" for row in failed]
    if failed:
        parts.append("the same command with --retry-failed tries them again")
    if values["num_unfinished"]:
        parts.append("the same command goes on with what is unfinished")
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any], best_trial_id: str | None) -> dict[str, str]:
    metrics = row["metrics"]
    before, after = (metrics.get(f"final/adapt_kid_{when}") for when in ("before", "after"))
    return {
        "trial": row["trial_id"],
        "what": row["label"] + " *" * (row["trial_id"] == best_trial_id),
        "status": row["status"],
        "KID": number(metrics.get("final/pretrain_kid_mean")),
        "new clients' KID": change(before, after),
        "TV": number(metrics.get("final/adapt_tv_after")),
        "held-out": number(metrics.get("final/adapt_heldout_after")),
        "state": (row["state_fingerprint"] or "-")[:8],
    }

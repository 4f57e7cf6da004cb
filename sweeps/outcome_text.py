"""The answers of `spire sweep`, before a sweep runs and at its end, as JSON and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cli.command import one_line
from pipeline.cli.tables import aligned, change, duration, number
from sweeps.design.config import SweepConfig
from sweeps.design.estimate import sweep_seconds
from sweeps.design.points import Trial, likely
from sweeps.design.trial_plan import TrialPlan, concurrency, plan_trial
from sweeps.execution.ledger import Ledger
from sweeps.execution.progress import Progress, read_progress
from sweeps.execution.trial_record import TrialRecord
from sweeps.sweep import Outcome

CLOCKED = ("duration", "time/", "memory/")  # in names of numbers that no seed determines


def plan_json(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    cluster: Mapping[str, float],
    ledger: Ledger,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Return the trials to run, each with its status and with what it asks of the cluster.

    The estimate covers the trials that are left. In an Optuna search, `trials` are those at the
    axes' ends, and draws still to be made are estimated at random points.
    """
    progress = read_progress(sweep, ledger)
    left = progress.left(retry_failed)
    to_run = left + likely(sweep, progress.num_undrawn)
    at_once = concurrency(sweep, to_run or trials, cluster)

    def plan(trial: Trial) -> TrialPlan:
        return plan_trial(trial.config, cluster, at_once, sweep.autoscaling)

    plans = [(trial, plan(trial)) for trial in to_run]
    done = progress.with_status("finished")
    return {
        "name": sweep.name,
        "preset": sweep.preset,
        "search": sweep.search,
        "num_trials": progress.num_trials,
        "num_to_run": len(left) + progress.num_undrawn,
        "concurrency": at_once,
        "cluster": {name: cluster[name] for name in ("CPU", "GPU") if name in cluster},
        "estimate_s": sweep_seconds(plans, at_once, done),
        "trials": [_planned(t, plan(t), progress) for t in trials],
    }


def _planned(trial: Trial, plan: TrialPlan, progress: Progress) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "label": trial.label,
        "status": progress.status(trial) if trial.trial_id in progress.records else "new",
        "overrides": list(trial.overrides),
        "resources": plan.bundles,
        "needs": plan.describe(),
        "shares_pretraining": trial.shares_pretraining,
    }


def plan_text(values: Mapping[str, Any]) -> str:
    """Return the values of `plan_json` as a table."""
    header = ["trial", "what", "status", "needs", "pre-training"]
    rows = [
        [
            row["trial_id"],
            row["label"],
            row["status"],
            row["needs"],
            "shared" if row["shares_pretraining"] else "own",
        ]
        for row in values["trials"]
    ]
    cluster = ", ".join(f"{amount:g} {name}" for name, amount in values["cluster"].items())
    kind = "trials" if values["search"] != "optuna" else "trials to draw; those at the axes' ends"
    num_trials, num_to_run = values["num_trials"], values["num_to_run"]
    left = "" if num_to_run == num_trials else f", {num_to_run} of them left"
    return (
        f"sweep {values['name']} on {values['preset']}: {num_trials} {kind}{left}, "
        f"{values['concurrency']} at once on {cluster}\n{aligned(header, rows)}\n"
        f"about {duration(values['estimate_s'])} on CPUs such as this machine's, by a few timed "
        "steps"
    )


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome of a sweep, trial by trial."""
    sweep, progress = outcome.sweep, outcome.after
    counts = {s: len(progress.with_status(s)) for s in ("finished", "failed", "stopped")}
    best = _best(sweep, progress)
    return {
        "name": sweep.name,
        "parent_run_id": outcome.parent_run_id,
        "num_trials": progress.num_trials,
        **{f"num_{status}": count for status, count in counts.items()},
        "num_unfinished": len(progress.with_status("unfinished")) + progress.num_undrawn,
        "num_skipped": outcome.num_skipped,
        "metric": sweep.metric,
        "best_trial_id": None if best is None else best.trial_id,
        "trials": [_row(progress, trial) for trial in progress.trials],
        "folder": str(outcome.ledger.folder),
    }


def _row(progress: Progress, trial: Trial) -> dict[str, Any]:
    record = progress.records.get(trial.trial_id) or TrialRecord(trial.trial_id, "running")
    result = record.result or {}
    metrics = {
        name: value
        for name, value in result.get("metrics", {}).items()
        if not any(part in name for part in CLOCKED)
    }
    return {
        "trial_id": trial.trial_id,
        "label": trial.label,
        "method": trial.config.method.name,
        "seed": trial.config.seed,
        "point": trial.point,
        "overrides": list(trial.overrides),
        "status": progress.status(trial),
        "run_id": record.run_id,
        "error": record.error,
        "state_fingerprint": result.get("state_fingerprint"),
        "metrics": metrics,
        "samples": result.get("artifacts", {}).get("samples"),
    }


def _best(sweep: SweepConfig, progress: Progress) -> Trial | None:
    sign = 1 if sweep.mode == "min" else -1
    scored = []
    for trial in progress.with_status("finished"):
        score = progress.records[trial.trial_id].score(sweep)
        if score is not None:
            scored.append((sign * score, trial.trial_id, trial))
    return min(scored)[2] if scored else None


def outcome_text(values: Mapping[str, Any]) -> str:
    """Return the values of `outcome_json` as a table, with a line for each failure."""
    header = ["trial", "what", "status", "KID", "new clients' KID", "TV", "held-out", "state"]
    rows = [_cells(row, row["trial_id"] == values["best_trial_id"]) for row in values["trials"]]
    counts = ", ".join(
        f"{values[f'num_{status}']} {status}"
        for status in ("finished", "failed", "stopped", "unfinished")
        if values[f"num_{status}"] or status == "finished"
    )
    parts = [
        f"sweep {values['name']}: {counts}"
        + (f" ({values['num_skipped']} of them before)" if values["num_skipped"] else ""),
        aligned(header, rows)
        + (f"\n* best by {values['metric']}" if values["best_trial_id"] else ""),
    ]
    pictures = [f"{row['samples']}  {row['label']}" for row in values["trials"] if row["samples"]]
    if pictures:
        title = (
            "each new client's own images beside what was drawn for it before and after adaptation"
        )
        parts.append("\n".join([title, *pictures]))
    failed = [row for row in values["trials"] if row["status"] == "failed"]
    parts += [f"{row['label']} failed: {one_line(row['error'])}" for row in failed]
    if failed:
        parts.append("the same command with --retry-failed tries them again")
    left = [row for row in values["trials"] if row["status"] == "unfinished" and row["error"]]
    parts += [f"{row['label']} could not begin: {one_line(row['error'])}" for row in left]
    if values["num_unfinished"]:
        parts.append("the same command goes on with what is unfinished")
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any], is_best: bool) -> list[str]:
    metrics = row["metrics"]
    before, after = (metrics.get(f"final/adapt_kid_{when}") for when in ("before", "after"))
    return [
        row["trial_id"],
        row["label"] + (" *" if is_best else ""),
        row["status"],
        number(metrics.get("final/pretrain_kid_mean")),
        change(before, after),
        number(metrics.get("final/adapt_tv_after")),
        number(metrics.get("final/adapt_heldout_after")),
        (row["state_fingerprint"] or "-")[:8],
    ]

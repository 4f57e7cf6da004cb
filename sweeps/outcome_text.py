"""What the command line says about a sweep, before it runs and at its end: text and JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cli.tables import aligned, change, number
from sweeps.design.config import SweepConfig
from sweeps.design.estimate import sweep_seconds
from sweeps.design.points import Trial, likely
from sweeps.design.trial_plan import TrialPlan, concurrency, plan_trial
from sweeps.execution.job import metric_of
from sweeps.execution.ledger import Entry, Ledger, known_trials, undrawn
from sweeps.sweep import Outcome, is_left

CLOCKED = ("duration", "time/", "memory/")  # parts of names of numbers that no seed determines


def plan_json(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    cluster: Mapping[str, float],
    ledger: Ledger,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Return what would run: each trial with what it asks of the cluster, and how far it is.

    The estimate is of what is left. Of a search of Optuna's, `trials` are those at the axes' ends,
    and what is still to be drawn is estimated at random points.
    """
    known, num_undrawn = known_trials(sweep, ledger), undrawn(sweep, ledger)
    entries = ledger.entries(trial.trial_id for trial in known)
    left = [trial for trial in known if is_left(entries.get(trial.trial_id), retry_failed)]
    done = [t for t in known if t.trial_id in entries and entries[t.trial_id].status == "finished"]
    to_run = left + likely(sweep, num_undrawn)
    at_once = concurrency(sweep, to_run or trials, cluster)

    def plan(trial: Trial) -> TrialPlan:
        return plan_trial(trial.config, cluster, at_once, sweep.autoscaling)

    return {
        "name": sweep.name,
        "preset": sweep.preset,
        "search": sweep.search,
        "num_trials": len(known) + num_undrawn,
        "num_to_run": len(left) + num_undrawn,
        "concurrency": at_once,
        "cluster": {name: cluster[name] for name in ("CPU", "GPU") if name in cluster},
        "estimate_s": sweep_seconds([(t, plan(t)) for t in to_run], at_once, done),
        "trials": [_planned(t, plan(t), entries.get(t.trial_id)) for t in trials],
    }


def _planned(trial: Trial, plan: TrialPlan, entry: Entry | None) -> dict[str, Any]:
    status = "new" if entry is None else entry.status
    return {
        "trial_id": trial.trial_id,
        "label": trial.label,
        "status": "unfinished" if status == "running" else status,
        "overrides": list(trial.overrides),
        "resources": plan.bundles,
        "needs": plan.describe(),
        "shares_pretraining": trial.shares_pretraining,
    }


def plan_text(told: Mapping[str, Any]) -> str:
    """Return what `plan_json` tells, as a table."""
    header = ["trial", "what", "status", "needs", "pre-training"]
    rows = [
        [
            row["trial_id"],
            row["label"],
            row["status"],
            row["needs"],
            "shared" if row["shares_pretraining"] else "own",
        ]
        for row in told["trials"]
    ]
    have = ", ".join(f"{amount:g} {name}" for name, amount in told["cluster"].items())
    kind = "trials" if told["search"] != "optuna" else "trials to draw; those at the axes' ends"
    left = (
        "" if told["num_to_run"] == told["num_trials"] else f", {told['num_to_run']} of them left"
    )
    return (
        f"sweep {told['name']} on {told['preset']}: {told['num_trials']} {kind}{left}, "
        f"{told['concurrency']} at once on {have}\n{aligned(header, rows)}\n"
        f"about {duration(told['estimate_s'])} on CPUs such as this machine's, by a few timed steps"
    )


def duration(seconds: float) -> str:
    """Return a span of time in its natural unit, to two digits or so."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return what a sweep came to, trial by trial."""
    trials = [_row(outcome, trial) for trial in outcome.trials]
    counts = {s: len(outcome.with_status(s)) for s in ("finished", "failed", "stopped")}
    best = _best(outcome)
    return {
        "name": outcome.sweep.name,
        "parent_run_id": outcome.parent_run_id,
        "num_trials": len(trials) + outcome.num_undrawn,
        **{f"num_{status}": count for status, count in counts.items()},
        "num_unfinished": len(outcome.with_status("unfinished")) + outcome.num_undrawn,
        "num_skipped": outcome.num_skipped,
        "metric": outcome.sweep.metric,
        "best_trial_id": None if best is None else best.trial_id,
        "trials": trials,
        "folder": str(outcome.ledger.folder),
    }


def _row(outcome: Outcome, trial: Trial) -> dict[str, Any]:
    entry = outcome.entries.get(trial.trial_id) or Entry(trial.trial_id, "running")
    result = entry.result or {}
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
        "status": outcome.status(trial),
        "run_id": entry.run_id,
        "error": entry.error,
        "state_fingerprint": result.get("state_fingerprint"),
        "metrics": metrics,
        "samples": result.get("artifacts", {}).get("samples"),
    }


def _best(outcome: Outcome) -> Trial | None:
    sign = 1 if outcome.sweep.mode == "min" else -1
    scored = []
    for trial in outcome.with_status("finished"):
        metrics = (outcome.entries[trial.trial_id].result or {})["metrics"]
        value = metric_of(outcome.sweep, metrics)
        if value is not None:
            scored.append((sign * value, trial.trial_id, trial))
    return min(scored)[2] if scored else None


def outcome_text(told: Mapping[str, Any]) -> str:
    """Return what `outcome_json` tells, as a table and a line for each failure."""
    header = ["trial", "what", "status", "KID", "new clients' KID", "TV", "held-out", "state"]
    rows = [_cells(row, row["trial_id"] == told["best_trial_id"]) for row in told["trials"]]
    counts = ", ".join(
        f"{told[f'num_{status}']} {status}"
        for status in ("finished", "failed", "stopped", "unfinished")
        if told[f"num_{status}"] or status == "finished"
    )
    parts = [
        f"sweep {told['name']}: {counts}"
        + (f" ({told['num_skipped']} of them before)" if told["num_skipped"] else ""),
        aligned(header, rows) + (f"\n* best by {told['metric']}" if told["best_trial_id"] else ""),
    ]
    pictures = [f"{row['samples']}  {row['label']}" for row in told["trials"] if row["samples"]]
    if pictures:
        first = (
            "each new client's own images beside what was drawn for it before and after adaptation"
        )
        parts.append("\n".join([first, *pictures]))
    failed = [row for row in told["trials"] if row["status"] == "failed"]
    parts += [f"{row['label']} failed: {row['error']}" for row in failed]
    if failed:
        parts.append("the same command with --retry-failed tries them again")
    left = [row for row in told["trials"] if row["status"] == "unfinished" and row["error"]]
    parts += [f"{row['label']} could not begin: {row['error']}" for row in left]
    if told["num_unfinished"]:
        parts.append("the same command goes on with what is unfinished")
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any], is_best: bool) -> list[str]:
    found = row["metrics"]
    before, after = (found.get(f"final/adapt_kid_{when}") for when in ("before", "after"))
    return [
        row["trial_id"],
        row["label"] + (" *" if is_best else ""),
        row["status"],
        number(found.get("final/pretrain_kid_mean")),
        change(before, after),
        number(found.get("final/adapt_tv_after")),
        number(found.get("final/adapt_heldout_after")),
        (row["state_fingerprint"] or "-")[:8],
    ]

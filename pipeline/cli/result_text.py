"""The answers of `spire run` and `spire adapt`: an experiment's end and a new client, as text."""

from collections.abc import Sequence
from typing import Any

from pipeline.cli.setup_text import trained_text
from pipeline.cli.tables import number, pairs, table
from pipeline.config.tracking import ui_text
from pipeline.evaluation.diagnosis import Diagnosis
from pipeline.inference.arrival import Arrival
from pipeline.results.files import grid_path
from pipeline.results.metrics import params_counts
from pipeline.results.result import Result
from pipeline.results.tables import new_clients
from pipeline.runs.layout import PROFILE, PROFILE_TABLE, trace_path
from pipeline.runs.record import experiment_of

# Titles of columns, and the scores below them.
ROUNDS = {"round": "round", "KID": "kid/mean", "worst": "kid/worst", "TV": "tv/mean"}
ROUNDS |= {"held-out own": "heldout/own", "zero": "heldout/zero", "swapped": "heldout/swapped"}
NEW_CLIENTS = {"client": "client_id", "KID before": "kid_before", "after": "kid_after"}
NEW_CLIENTS |= {"floor": "kid_floor", "epoch": "kept_epoch", "TV before": "tv_before"}
NEW_CLIENTS |= {"TV after": "tv_after", "held-out before": "heldout_before"}
NEW_CLIENTS |= {"held-out after": "heldout_after", "NN train": "nn_train", "NN test": "nn_test"}
EPOCHS = {"epoch": "epoch", "train loss": "train_loss", "held-out loss": "heldout_loss"}
EPOCHS |= {"KID": "own_kid", "TV": "tv"}
NO_FAILURE = "no known failure recognised"


def result_table(result: Result) -> str:
    """Return the text at the end of a run: scores, floors, diagnoses and file locations."""
    config, federation = result.setting.config, result.setting.config.federation
    title = (
        f"{config.method.name} on {config.data.name}, seed {config.seed}: "
        f"{federation.num_clients} clients, {federation.num_rounds} rounds"
    )
    parts = [title, _pretraining_text(result), _new_clients_text(result)]
    parts += [diagnoses_text(result.diagnoses), pairs(_places(result))]
    return "\n\n".join(part for part in parts if part)


def diagnoses_text(diagnoses: Sequence[Diagnosis]) -> str:
    """Return the known failures of a run with advice, or a sentence that there are none."""
    lines = [f"{d.name}: {d.evidence}\n  try {d.advice}" for d in diagnoses]
    return "\n".join(["Diagnoses (docs/diagnoses.md)", *lines] if lines else [NO_FAILURE])


def _pretraining_text(result: Result) -> str:
    if not result.pretraining.evaluations:
        return "no pre-training: this method's clients train alone"
    floor = number(result.real.floor_mean(result.setting.eval_ids))
    kid = f"KID floor, real against real: {floor}"
    if not result.setting.has_features:
        kid = "no KID, which needs features: eval.extractor=none"
    rows = [
        {key.removeprefix("pretrain/"): value for key, value in one.metrics().items()}
        | {"round": one.round_idx}
        for one in result.pretraining.evaluations
    ]
    return f"Pre-training clients ({kid})\n{table(rows, ROUNDS)}"


def _new_clients_text(result: Result) -> str:
    subset_size = result.setting.config.eval.kid_subset_size
    rows = new_clients(result.adaptation, result.real, subset_size).to_dict("records")
    if not rows:
        return ""
    total, trained = params_counts(result.setting)
    lines = [
        "New clients, before and after adaptation (NN: distance of samples to the nearest image)",
        table(rows, NEW_CLIENTS),
        f"each {trained_text(trained, total).removeprefix('a ')}",
    ]
    lost = {name: value for name, value in result.metrics.items() if "forgetting" in name}
    lines += [pairs(lost)] if lost else []
    promise = result.adaptation.privacy_sentence
    return "\n".join([*lines, promise] if promise else lines)


def _places(result: Result) -> dict[str, Any]:
    run_dir, tracking = result.run_dir, result.setting.config.tracking
    places = {"run folder": str(run_dir), "samples": str(grid_path(result))}
    if tracking.enabled:
        places["compare"] = ui_text(tracking, experiment_of(run_dir))
    if (trace := trace_path(run_dir)) is not None:
        how = "open it at https://ui.perfetto.dev or in chrome://tracing"
        places |= {
            "profile": f"{trace}: {how}",
            "operators": str(run_dir / PROFILE / PROFILE_TABLE),
        }
    return places


def arrival_json(arrival: Arrival) -> dict[str, Any]:
    """Return the result of an arrived client's adaptation as plain values."""
    names = ("client_id", "num_train", "num_test", "num_trained", "kept_epoch", "guidance")
    values = {name: value for name in names if (value := getattr(arrival, name)) is not None}
    values["curve"] = [
        {"epoch": one.epoch, "train_loss": one.train_loss, "val_loss": one.val_loss}
        | dict(one.observed or {})
        for one in arrival.curve
    ]
    values["diagnoses"] = [] if arrival.diagnosis is None else [arrival.diagnosis.as_dict()]
    if arrival.guarantee is not None:
        values["privacy"] = arrival.guarantee.as_values()
    places = {"client": str(arrival.path), "samples": str(arrival.grid_path)}
    return values | {"artifacts": places}


def arrival_text(arrival: Arrival) -> str:
    """Return an arrived client's curve over epochs and the files of its result."""
    values, guarantee = arrival_json(arrival), arrival.guarantee
    curve = [row for row, one in zip(values["curve"], arrival.curve, strict=True) if one.observed]
    parts = [
        f"client {arrival.client_id}: {arrival.num_trained:,} numbers trained on "
        f"{arrival.num_train} images, measured on {arrival.num_test} others",
        table(curve, EPOCHS),
        f"kept epoch {arrival.kept_epoch}"
        + ("" if arrival.guidance is None else f", guidance {arrival.guidance:g}"),
        *([] if guarantee is None else [guarantee.sentence]),
        diagnoses_text([arrival.diagnosis] if arrival.diagnosis else []),
        pairs(values["artifacts"]),
    ]
    return "\n".join(parts)

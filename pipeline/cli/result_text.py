"""The text at the end of an experiment."""

from collections.abc import Sequence

from pipeline.cli.setup_text import trained_text
from pipeline.cli.tables import aligned, change, number
from pipeline.config.tracking import ui_text
from pipeline.evaluation.diagnosis import Diagnosis
from pipeline.evaluation.scores import Evaluation
from pipeline.results.files import grid_path
from pipeline.results.metric_names import CONTROL_NAMES
from pipeline.results.metrics import params_counts
from pipeline.results.result import Result
from pipeline.results.tables import new_clients
from pipeline.runs.layout import PROFILE, PROFILE_TABLE, trace_path
from pipeline.runs.record import experiment_of

NO_KID = "no KID, which needs features: eval.extractor=none"


def result_table(result: Result) -> str:
    """Return the text at the end of a run: scores, floors, diagnoses and file locations."""
    config, federation = result.setting.config, result.setting.config.federation
    title = (
        f"{config.method.name} on {config.data.name}, seed {config.seed}: "
        f"{federation.num_clients} clients, {federation.num_rounds} rounds"
    )
    tables = [_pretraining_table(result), _new_clients_table(result)]
    parts = [title, *tables, diagnoses_text(result.diagnoses), _where(result)]
    return "\n\n".join(part for part in parts if part)


def diagnoses_text(diagnoses: Sequence[Diagnosis]) -> str:
    """Return the known failures of a run with advice, or a sentence that there are none."""
    if not diagnoses:
        return "no known failure recognised"
    lines = [f"{d.name}: {d.evidence}\n  try {d.advice}" for d in diagnoses]
    return "\n".join(["Diagnoses (docs/diagnoses.md)", *lines])


def _pretraining_table(result: Result) -> str:
    if not result.pretraining.evaluations:
        return "no pre-training: this method's clients train alone"
    floor = number(result.real.floor_mean(result.setting.eval_ids))
    kid = f"KID floor, real against real: {floor}" if result.setting.has_features else NO_KID
    header = ["round", "KID", "worst", "TV", "held-out own", "zero", "swapped"]
    rows = [_pretraining_row(evaluation) for evaluation in result.pretraining.evaluations]
    return f"Pre-training clients ({kid})\n{aligned(header, rows)}"


def _pretraining_row(evaluation: Evaluation) -> list[str]:
    metrics = evaluation.metrics()
    keys = ("kid/mean", "kid/worst", "tv/mean", "heldout/own", "heldout/zero", "heldout/swapped")
    return [str(evaluation.round_idx), *(number(metrics.get(f"pretrain/{key}")) for key in keys)]


def _new_clients_table(result: Result) -> str:
    kid_subset_size = result.setting.config.eval.kid_subset_size
    rows = new_clients(result.adaptation, result.real, kid_subset_size).to_dict("records")
    if not rows:
        return ""
    header = ["client", "KID", "floor", "kept epoch", "TV", "held-out loss", "NN train", "NN test"]
    cells = [
        [
            str(row["client_id"]),
            change(row["kid_before"], row["kid_after"]),
            number(row["kid_floor"]),
            str(row["kept_epoch"]),
            change(row["tv_before"], row["tv_after"]),
            change(row["heldout_before"], row["heldout_after"]),
            number(row["nn_train"]),
            number(row["nn_test"]),
        ]
        for row in rows
    ]
    total, trained = params_counts(result.setting)
    forgetting = ", ".join(
        f"{name} {_mean([row[f'forgetting_{name}'] for row in rows])}"
        for name in ("own", "global", "replaced")
    )
    promise = result.adaptation.privacy_sentence
    return (
        "New clients, before -> after adaptation "
        "(NN: distance of samples to the client's nearest image)\n"
        f"{aligned(header, cells)}\n"
        f"each {trained_text(trained, total).removeprefix('a ')}"
        + (f"\nforgetting at the end (KID): {forgetting}" if result.setting.has_features else "")
        + _controls_text(result)
        + (f"\n{promise}" if promise else "")
    )


def _controls_text(result: Result) -> str:
    """Return a line with the mean KID of images that no fit has drawn; empty without controls."""
    controls = result.adaptation.image_controls
    kids = {
        text: [own[name].kid for own in controls if name in own]
        for name, text in CONTROL_NAMES.items()
    }
    found = ", ".join(f"{text} {_mean(values)}" for text, values in kids.items() if values)
    return f"\nKID without a fit: {found}" if found else ""


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return number(sum(known) / len(known)) if known else "-"


def _where(result: Result) -> str:
    tracking = result.setting.config.tracking
    lines = [f"run folder  {result.run_dir}", f"samples     {grid_path(result)}"]
    if tracking.enabled:
        lines.append(f"compare     {ui_text(tracking, experiment_of(result.run_dir))}")
    if (trace := trace_path(result.run_dir)) is not None:
        table = result.run_dir / PROFILE / PROFILE_TABLE
        how = "open it at https://ui.perfetto.dev or in chrome://tracing"
        lines.append(f"profile     {trace}: {how}; the operators that took longest are in {table}")
    return "\n".join(lines)

"""`spire report`, top to bottom: read runs, compare, draw, write, attach. Read `make_report`."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.cli.tables import duration
from pipeline.config.load import read_text
from pipeline.config.tracking import TrackingConfig, run_address, tracking_root
from pipeline.evaluation.diagnosis import ADVICE, DIAGNOSIS
from pipeline.files.paths import lasting
from pipeline.results.metric_names import CONTROLS_TABLE, DROPPED, NEW_CLIENTS_TABLE, ROUND_S
from pipeline.tracking.mlflow_queries import TrackedRun, artifact_text, attach
from spire_core.errors import ConfigError, RunError
from sweeps.primary import primaries
from sweeps.report import compare, figures, tables
from sweeps.report.page import Picture, Report
from sweeps.report.runs import (
    DOWN,
    EXTRACTOR,
    KID_ROUNDS,
    UP,
    experiments,
    read_curves,
    read_runs,
    read_samples,
    read_tables,
    short,
    with_costs,
)
from sweeps.report.tables import ID_CHARS, Table

SWEEP_FILE = "config/sweep.yaml"  # an artifact of a sweep's own run
TRIALS_FILE = "config/trials.yaml"  # likewise: the ids of its trials, as it began
CURVES = (KID_ROUNDS, UP, DOWN, DROPPED, ROUND_S, *figures.FORGETTING, *tables.EPOCHS.values())
SPREAD = "Lines: mean over seeds; shaded or barred: from the lowest to the highest seed."
MAX_NAMED = 6
NO_KID = "no KID, which needs features: eval.extractor=none"


def make_report(config: TrackingConfig, words: Sequence[str], out: Path | None = None) -> Report:
    """Write the report of a sweep or of runs, attach it to the sweep, and return it.

    `words` as in `sweep_runs`. `out`: the folder, else one in the tracking root. RunError if no
    such run has finished; ConfigError if the folder cannot be written; ClusterError if the store
    does not answer.
    """
    # 1. Read the runs, and choose each method's best setting.
    parent, asked = read_runs(config, words)
    runs = experiments(asked)
    if runs.empty:
        raise RunError(
            f"expected a finished experiment in {' '.join(words)!r}, got "
            f"{_counted(asked.status) or 'no run'}: wait for one, or name another sweep"
        )
    name = parent.name if parent else str(runs.run_id[0][:ID_CHARS])
    folder = _folder(out or tracking_root(config) / "reports" / file_name(name))
    chosen = compare.best_settings(runs)
    curves = read_curves(config, chosen, CURVES)
    chosen = with_costs(chosen, curves)
    clients = read_tables(config, chosen, NEW_CLIENTS_TABLE)
    sweep_file = (artifact_text(config, parent.run_id, SWEEP_FILE) or "") if parent else ""
    recorded = read_text(sweep_file, SWEEP_FILE) if sweep_file else {}

    # 2. Compare.
    planned = _planned(config, parent, runs, recorded)
    found = compare.comparisons(primaries(recorded.get("primary", ())), planned)
    told = compare.differences(chosen)
    along = [
        (key, task, here)
        for key in compare.axes(runs)
        for task, here in compare.along(runs, key).groupby("task", sort=False)
        if here.groupby("method")["at"].nunique().max() > 1
    ]
    axes = [
        Picture(
            _of_task(task, short(key)),
            compare.axis_sentence(here),
            figures.axis_figure(here, key),
        )
        for key, task, here in along
    ]
    answers = [f"{picture.title}: {picture.caption}" for picture in axes]
    by_task = [*chosen.groupby("task", sort=False)]
    answers += [_of_task(task, compare.method_sentence(here)) for task, here in by_task]

    # 3. Draw and tabulate.
    controls = chosen[chosen["eval.controls"] == "True"]
    frames = {
        "comparisons": found,
        "methods": tables.methods_frame(chosen, told),
        "pretraining": tables.means(chosen, tables.PRETRAINING),
        "new_clients": tables.means(chosen, tables.NEW_CLIENTS),
        "forgetting_and_cost": tables.means(chosen, tables.FORGETTING_AND_COST),
        "differences": tables.differences_frame(told),
        "controls": tables.controls_frame(read_tables(config, controls, CONTROLS_TABLE)),
        "prompts": tables.prompts_frame(chosen),
        "epochs": tables.epochs_frame(curves),
        "privacy": tables.means(chosen, tables.PRIVACY),
        "settings": tables.means(runs, tables.SETTINGS) if len(runs) > len(chosen) else found[:0],
        "runs": tables.runs_frame(asked),
        "parameters": tables.parameters_frame(runs),
    }
    report = Report(
        name=name,
        folder=folder,
        parent_id=parent.run_id if parent else None,
        question=str(recorded.get("question") or ""),
        facts=_facts(asked, runs),
        notes=_notes(runs, chosen),
        answers=[answer for answer in answers if answer],
        axes=axes,
        compared=_comparison_pictures(found),
        pictures=_client_pictures(clients) + _curve_pictures(chosen, curves),
        tables={name: Table(name, frame) for name, frame in frames.items() if not frame.empty},
        samples=read_samples(config, chosen, clients),
        runs=runs,
        clients=clients,
        links=_links(config, parent, asked),
        sweep_file=sweep_file,
    )

    # 4. Write and attach.
    paths = report.write()
    if parent:
        attach(config, parent.run_id, folder, paths, report.note())
    return report


def _planned(
    config: TrackingConfig, parent: TrackedRun | None, runs: pd.DataFrame, recorded: dict
) -> pd.DataFrame:
    """Return the runs of the trials that a sweep had when it wrote its comparisons down.

    Seeds and settings that are added later must not decide what it finds.
    """
    if seeds := recorded.get("seeds"):
        runs = runs[runs.seed.isin(seeds)]
    ids = artifact_text(config, parent.run_id, TRIALS_FILE) if parent else None
    if ids:
        runs = runs[runs["tags.spire.trial_id"].isin(read_text(ids, TRIALS_FILE)["trial_ids"])]
    return runs


def file_name(name: str) -> str:
    """Return a sweep's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "report"


def _folder(folder: Path) -> Path:
    """Return the report's absolute folder; ConfigError if it cannot be made, or does not last."""
    folder = lasting(folder, "--out")
    try:
        (folder / "tables").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"expected a folder that can be written, got {folder} ({error}): name another"
        ) from error
    return folder


def _of_task(task: object, text: str) -> str:
    return f"{task}: {text}" if task and text else text


def _comparison_pictures(found: pd.DataFrame) -> list[Picture]:
    text = (
        "Interval: 95 %, over paired seeds. Grey bar: the margin within which methods match. Left: "
        "the first method's score is lower. Grey: no difference was found after Holm's correction."
    )
    return [
        Picture(f"Comparisons of the sweep's file ({scale})", text, figure)
        for scale, figure in figures.comparisons_figures(found).items()
    ]


def _client_pictures(clients: pd.DataFrame) -> list[Picture]:
    text = (
        "Every new client of every seed, before adaptation (grey) and after (coloured), at each "
        "method's best setting. Bar: mean over seeds, from the lowest to the highest. Lower is "
        "better."
    )
    return [
        Picture(_of_task(task, "New clients, one by one"), text, figure)
        for task, here in clients.groupby("task", sort=False)
        if (figure := figures.dots_figure(here)) is not None
    ]


def _curve_pictures(chosen: pd.DataFrame, curves: pd.DataFrame) -> list[Picture]:
    pictures = []
    for task, here in curves.groupby("task", sort=False):
        own = chosen[chosen.task == task]
        floor = (
            own["final/pretrain_kid_floor"].mean() if "final/pretrain_kid_floor" in own else np.nan
        )
        drawn = {
            "KID over rounds": (
                figures.rounds_figure(here, floor),
                f"Each method at its best setting. {SPREAD} Lower is better.",
            ),
            "Forgetting during adaptation": (
                figures.forgetting_figure(here),
                f"Each method at its best setting. {SPREAD} Own: noise alone lifts it above 0. "
                "Global: lost for existing clients. Replaced: lost if only the adapted client is "
                "kept.",
            ),
        }
        pictures += [
            Picture(_of_task(task, title), text, figure)
            for title, (figure, text) in drawn.items()
            if figure is not None
        ]
    return pictures


def _links(config: TrackingConfig, parent: TrackedRun | None, runs: pd.DataFrame) -> dict[str, str]:
    """Return the pages of runs in MLflow's UI by their ids; a store without pages has none."""
    ids = {parent.run_id: parent.experiment_id} if parent else {}
    ids |= dict(zip(runs.run_id, runs.experiment_id, strict=True))
    pages = {run_id: run_address(config, experiment, run_id) for run_id, experiment in ids.items()}
    return {run_id: page for run_id, page in pages.items() if page.startswith("http")}


def _facts(asked: pd.DataFrame, runs: pd.DataFrame) -> dict[str, str]:
    """Return what the report's numbers come from."""

    def value(key: str) -> str:
        values = runs[key].dropna() if key in runs else []
        return " / ".join(v for v in dict.fromkeys(values) if v != "None") or "-"

    seeds = sorted(runs.seed.unique())
    left = asked.status.where(asked.status != "FINISHED").dropna()
    num_again = int((asked.status == "FINISHED").sum()) - len(runs)
    again = f"{num_again} run again later, or no experiments" if num_again else ""
    out = ", ".join(filter(None, (_counted(left), again)))
    began, ended = runs.began_ms.min() / 1000, runs.ended_ms.max() / 1000
    day = datetime.fromtimestamp(began, UTC)
    kid = (
        f"KID in the feature space of {value(EXTRACTOR)}, {value('eval.num_images')} images per "
        f"client, subsets of at most {value('eval.kid_subset_size')}"
    )
    clients, new = value("federation.num_clients"), value("federation.num_new_clients")
    cohort, rounds = value("federation.cohort_size"), value("federation.num_rounds")
    return {
        "Runs": f"{len(runs)} finished, seeds {', '.join(map(str, seeds))}"
        + (f"; left out: {out}" if out else ""),
        "When": f"{day:%Y-%m-%d %H:%M} UTC, {duration(ended - began)}",
        "Scores": NO_KID if value(EXTRACTOR).startswith("none") else kid,
        "Sampling": f"{value('diffusion.sampler')}, {value('diffusion.sample_steps')} steps, "
        f"guidance {value('eval.guidance')}",
        "Data": f"{value('data.name')}, partition {value('partition.name')}",
        "Federation": f"{clients} clients and {new} new ones, cohorts of {cohort}, {rounds} rounds",
        "Code": f"revision {value('tags.git_revision')}",
    }


def _counted(statuses: pd.Series) -> str:
    counts = statuses.str.lower().value_counts()
    return ", ".join(f"{num} {status}" for status, num in counts.sort_index().items())


def _notes(runs: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    """Return what a reader must know to read the numbers right."""
    notes, sizes = [], runs.groupby(["task", "method", "setting"], sort=False).size()
    if (most := sizes.max()) < compare.FEW_SEEDS:
        notes.append(f"{most} {'seed' if most == 1 else 'seeds'}: too few to tell.")
    if len(chosen) < len(runs):
        notes.append(
            "Each method is shown at its best setting, chosen on the seeds that are shown. This "
            "favours methods with more settings."
        )
    if sizes.nunique() > 1:
        notes.append("Some settings have fewer seeds than others: see the column n.")
    if "simulated" in {*runs.get("tags.dp", ())}:
        notes.append(
            "The noise of runs tagged dp=simulated comes from a key that was given, or is scaled "
            "from a larger cohort: their epsilon is no promise to the clients in them."
        )
    odd = [
        f"{run}: {key}" for run, keys in zip(runs.name, runs.unknown, strict=True) for key in keys
    ]
    notes += [f"Not a number, and in no mean: {_several(odd)}."] * bool(odd)
    diagnoses = runs.get(f"tags.{DIAGNOSIS}", pd.Series("", runs.index)).fillna("").str.split(",")
    for name, advice in ADVICE.items():
        shown = [run for run, own in zip(runs.name, diagnoses, strict=True) if name in own]
        notes += [f"{name}, seen in {_several(shown)}: try {advice}."] * bool(shown)
    return notes


def _several(names: Iterable[str]) -> str:
    names = [*names]
    rest = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + rest

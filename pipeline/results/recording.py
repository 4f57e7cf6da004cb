"""The entries of an experiment in its tracking run: tags, metrics and artifacts of each stage.

Per-client values go into tables; the metrics stay few, and are the same for every method.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd

from pipeline.config.meaning import fingerprint
from pipeline.config.plugins import plugins_of
from pipeline.config.schema import Config
from pipeline.evaluation.diagnosis import DIAGNOSIS, NONE, Diagnosis, own_is_best
from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.federation.rounds import promise_to_clients
from pipeline.federation.setup import FederationSetup
from pipeline.figures import plots
from pipeline.figures.image_grids import image_grid, labelled_grids
from pipeline.files.paths import REVISION, git_revision
from pipeline.results import metric_names as names
from pipeline.results import tables
from pipeline.results.metrics import adaptation_metrics, copies_tags, coverage_tags, image_tags
from pipeline.results.params import params_of
from pipeline.results.pictures import CLIENTS, COLUMNS, client_rows, embedding_rows
from pipeline.results.result import Adaptation, Pretraining, Result
from pipeline.runs.layout import MODEL, PROFILE
from pipeline.tracking.mlflow_queries import NOTE
from pipeline.tracking.tracker import EACH_ITS_OWN, Tracker
from spire_core.privacy.guarantee import IMAGE_UNIT

MAX_PROFILE_BYTES = 20_000_000  # of a file that is sent to the store
_log = logging.getLogger(__name__)


def run_tags(setting: FederationSetup, preset: str | None) -> dict[str, str]:
    """Return the tags that a run is found and filtered by."""
    config = setting.config
    return {
        "method": config.method.name,
        "dataset": config.data.name,
        "data_hash": setting.data.sha256,
        "preset": preset or "none",
        "seed": str(config.seed),
        "partition_hash": setting.partition.hash,
        "config_fingerprint": fingerprint(config),
        "extractor": setting.extractor,
        "extractor_hash": setting.extractor_hash,
        REVISION: git_revision(),
        NOTE: _setting_note(config, preset),
        **({"backbone_hash": setting.backbone_hash} if setting.backbone_hash else {}),
        **({"text_hash": setting.text_hash} if setting.text_hash else {}),
        **{
            f"plugin.{p.kind}.{p.name}": f"{p.package or 'this process'} {p.version}"
            for p in plugins_of(config)
        },
        **_privacy_tags(config),
    }


def _setting_note(config: Config, preset: str | None) -> str:
    federation = config.federation
    return (
        f"**{config.method.name}** on {config.data.name}, seed {config.seed}: "
        f"{federation.num_clients} clients and {federation.num_new_clients} new ones, "
        f"{federation.num_rounds} rounds. Preset {preset or 'none'}, all settings in "
        "`config/resolved.yaml`."
    )


def _privacy_tags(config: Config) -> dict[str, str]:
    """Return what is promised to whom, and whether it is a simulation."""
    privacy, promise = config.privacy, promise_to_clients(config)
    if promise is not None:
        return promise.tags()
    if not privacy.adapt.is_on or config.federation.num_new_clients == 0:  # nobody's images
        return {}
    return {
        "dp": "secret" if privacy.noise_key is None else "simulated",
        "privacy.unit": IMAGE_UNIT,
        "privacy.epsilon": f"{privacy.adapt.epsilon:g}",
        "privacy.mechanism": privacy.adapt.mechanism,
    }


def log_setting(tracker: Tracker, setting: FederationSetup, tags: Iterable[str] = ()) -> None:
    """Write parameters, configuration, data and partition, before the first round.

    `tags`: the names of the run's tags, for `params_of`.
    """
    if not tracker.keeps_all:
        return
    config, data, shown = setting.config, setting.data, setting.partition.shown
    tracker.log_params(params_of(config, tags))
    tracker.log_dict(config.as_dict(), "config/resolved.yaml")
    tracker.log_dataset(data.name, data.sha256, len(data.labels))
    counts = shown.class_counts(data.labels, len(data.class_names))
    picture = plots.partition_figure(
        counts, data.class_names, len(shown.train_clients), shown.names or shown.client_ids
    )
    tracker.log_figure(picture, "plots/partition.png")


def log_evaluation(
    tracker: Tracker,
    setting: FederationSetup,
    evaluation: Evaluation,
    real: RealData,
    extra_metrics: Mapping[str, float] | None = None,
) -> None:
    """Write one evaluation of the pre-training clients: few metrics, one table, one image grid.

    The one before the first round brings the new clients' coverage, as tags and params: at that
    time the clients train, so that no start and no resumed run waits for it.
    """
    if evaluation.round_idx == 0:
        coverage = coverage_tags(setting)
        tracker.log_tags(coverage)
        tracker.log_params(coverage)
    metrics = evaluation.metrics()
    if setting.has_features:
        metrics["pretrain/kid/floor"] = real.floor_mean(evaluation.client_ids)
    tracker.log_metrics(metrics | dict(extra_metrics or {}), step=evaluation.round_idx)
    table = tables.pretraining_clients(evaluation, real)
    tracker.log_table(names.pretraining_table(evaluation.round_idx), table)
    images = np.concatenate([d.images[:8] for d in evaluation.drawn[:8]])
    tracker.log_image("samples/pretrain", image_grid(images, 8), evaluation.round_idx)


def log_old_controls(tracker: Tracker, pretraining: Pretraining, real: RealData) -> None:
    """Write the last table of pre-training clients again, with the scores of their controls."""
    last = pretraining.evaluations[-1]
    table = tables.pretraining_clients(last, real, pretraining.controls)
    tracker.log_table(names.pretraining_table(last.round_idx), table)


def log_tuned(tracker: Tracker, tuned: Evaluation, real: RealData) -> None:
    """Write one row per pre-training client that has trained on for its score."""
    tracker.log_table(names.TUNED_TABLE, tables.pretraining_clients(tuned, real))


def log_profile(tracker: Tracker, run_dir: Path) -> None:
    """Write the profile of a run, if it has one; large files are left out."""
    for path in sorted((run_dir / PROFILE).glob("*")):
        if path.stat().st_size <= MAX_PROFILE_BYTES:
            tracker.log_file(path, f"{PROFILE}/{path.name}")


def log_adaptation(
    tracker: Tracker, setting: FederationSetup, real: RealData, adaptation: Adaptation
) -> None:
    """Write the new clients' curves over epochs, tables and figures."""
    by_epoch = adaptation_metrics(adaptation)
    tracker.log_points([*by_epoch.items()])
    config = setting.config
    clients = tables.new_clients(adaptation, real, config.eval.kid_subset_size)
    clients = tables.with_worlds(clients, setting, adaptation)
    tracker.log_table(names.NEW_CLIENTS_TABLE, clients)
    if tags := copies_tags(adaptation, config.seed):
        tracker.log_tags(tags)
    if adaptation.reports:
        fit_duration_s = fmean(one.fit_duration_s for one in adaptation.reports)
        tracker.log_tags({names.FIT_TAG: repr(fit_duration_s)})
    if adaptation.image_controls:
        controls = tables.image_controls(adaptation, real, setting)
        tracker.log_table(names.CONTROLS_TABLE, controls)
        tracker.log_tags(image_tags(controls, clients))
    if not tracker.keeps_all:
        return
    for report in adaptation.reports[:CLIENTS]:
        grid, name = image_grid(report.after.images, 8), f"client_{report.client_id}"
        picture = labelled_grids(
            [*client_rows(setting, report), *embedding_rows(setting, report)], COLUMNS
        )
        tracker.log_picture(picture, f"samples/{name}.png")
        tracker.log_image(f"samples/new_{name}", grid, step=0)
    rows = [
        (config.method.name, name, epoch, value)
        for epoch, metrics in by_epoch.items()
        for name, value in metrics.items()
    ]
    curves = pd.DataFrame(rows, columns=["method", "metric", "step", "value"])
    if (picture := plots.forgetting_figure(curves)) is not None:
        tracker.log_figure(picture, "plots/forgetting.png")
    if (kid := adaptation.cross_kid) is not None:
        table = tables.cross_clients(kid, "samples_of", "data_of")
        tracker.log_table("tables/cross_client.json", table)
        title = "KID of samples of one client against data of another"
        ids = [*map(str, kid)]
        picture = plots.matrix_figure(kid.to_numpy(), ids, ids, title)
        tracker.log_figure(picture, "plots/cross_client.png")


def log_diagnoses(tracker: Tracker, diagnoses: Sequence[Diagnosis]) -> None:
    """Write the known failures of a run into a tag, a file and the log."""
    for diagnosis in diagnoses:
        text = "%s: %s. Try %s (docs/diagnoses.md)"
        _log.warning(text, diagnosis.name, diagnosis.evidence, diagnosis.advice)
    tracker.log_tags({DIAGNOSIS: ",".join(diagnosis.name for diagnosis in diagnoses) or NONE})
    tracker.log_dict({"diagnoses": [d.as_dict() for d in diagnoses]}, "diagnoses.json")


def log_cross_losses(tracker: Tracker, losses: pd.DataFrame) -> None:
    """Write clients' held-out losses with each other's parts; a tag tells whose own is best."""
    best = own_is_best(losses.to_numpy())
    tracker.log_tags({"spire.own_is_best": f"{best.sum()}/{len(best)}"})
    table = tables.cross_clients(losses, "data_of", "with_part_of")
    tracker.log_table("tables/cross_losses.json", table)
    ids, title = [*map(str, losses)], "Held-out loss with another client's part"
    axes, values = ("own part of client", "data of client"), losses.to_numpy()
    picture = plots.matrix_figure(values, ids, ids, title, "held-out loss", axes, ".3g")
    tracker.log_figure(picture, "plots/cross_losses.png")


def log_summary(
    tracker: Tracker, setting: FederationSetup, metrics: Mapping[str, float], state_fingerprint: str
) -> None:
    """Write the final metrics, the fingerprint of the final state, and the model."""
    config, image_shape = setting.config, setting.images.shape[1:]
    tracker.log_metrics(metrics, step=names.FINAL_STEP)
    tracker.log_tags({"state_fingerprint": state_fingerprint})
    guidance = config.eval.guidance if config.adapt.guidance is None else EACH_ITS_OWN
    tracker.log_model(tracker.run_dir / MODEL, image_shape, guidance)


def log_note(tracker: Tracker, result: Result, preset: str | None) -> None:
    """Write the description of a finished run: its setting, promise and diagnoses."""
    note = _setting_note(result.setting.config, preset)
    told = [result.promise] if result.promise else []
    told += [f"diagnosis: {one.name} (try {one.advice})" for one in result.diagnoses]
    tracker.log_tags({NOTE: "\n- ".join([f"{note}\n", *told])})

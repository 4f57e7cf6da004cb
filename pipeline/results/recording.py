"""The entries of an experiment in its tracking run: tags, metrics and artifacts of each stage.

Per-client values go into tables; the metrics stay few, and are the same for every method.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from pipeline.config.meaning import fingerprint
from pipeline.config.plugins import plugins_of
from pipeline.config.schema import Config
from pipeline.evaluation.diagnosis import DIAGNOSIS, NONE, Diagnosis, own_is_best
from pipeline.evaluation.scores import CrossClientMatrix, Evaluation, RealData
from pipeline.federation.partitioning import promise_to_clients
from pipeline.federation.setup import FederationSetup
from pipeline.figures import image_grids
from pipeline.figures import plots as figures
from pipeline.files.revision import REVISION, running_code
from pipeline.results.control_rows import control_rows, image_tags
from pipeline.results.metric_names import (
    CONTROLS_TABLE,
    FINAL_STEP,
    FIT_TAG,
    KID_FLOOR,
    NEW_CLIENTS_TABLE,
    TUNED_TABLE,
    pretraining_table,
)
from pipeline.results.metrics import adaptation_metrics
from pipeline.results.neighbour_columns import copies_tags
from pipeline.results.new_client_rows import as_columns, new_client_rows
from pipeline.results.note import result_note, setting_note
from pipeline.results.params import params_of
from pipeline.results.recorded_figures import (
    log_adaptation_figures,
    log_cross_losses_figure,
    log_pretraining_figure,
)
from pipeline.results.result import Adaptation, Result
from pipeline.results.world_rows import coverage_texts, with_world
from pipeline.runs.layout import MODEL, PROFILE
from pipeline.tracking.mlflow_queries import NOTE
from pipeline.tracking.tracker import EACH_ITS_OWN, Tracker
from spire_core.plugins import Plugin
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
        REVISION: running_code(),
        NOTE: setting_note(config, preset),
        **({"backbone_hash": setting.backbone_hash} if setting.backbone_hash else {}),
        **({"text_hash": setting.text_hash} if setting.text_hash else {}),
        **{f"plugin.{p.kind}.{p.name}": _origin(p) for p in plugins_of(config)},
        **_privacy_tags(config),
    }


def _origin(plugin: Plugin) -> str:
    """Return a plug-in's package and version."""
    return f"{plugin.package or 'this process'} {plugin.version}"


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
    if not tracker.keeps_files:
        return
    config, data = setting.config, setting.data
    tracker.log_params(params_of(config, tags))
    tracker.log_dict(config.as_dict(), "config/resolved.yaml")
    tracker.log_dataset(
        data.images, data.labels, data.name, data.sha256, "pre-training and adaptation"
    )
    shown = setting.partition.shown
    counts = shown.class_counts(data.labels, len(data.class_names))
    picture = figures.partition_figure(
        counts, data.class_names, len(shown.train_clients), shown.client_ids
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
        coverage = coverage_texts(setting)
        tracker.log_tags(coverage)
        tracker.log_params(coverage)
    floor = {}
    if setting.has_features:
        floor[KID_FLOOR] = real.floor_mean(evaluation.client_ids)
    metrics = evaluation.metrics() | floor | dict(extra_metrics or {})
    tracker.log_metrics(metrics, step=evaluation.round_idx)
    tracker.log_table(pretraining_table(evaluation.round_idx), evaluation.table(real))
    images = np.concatenate([d.images[:8] for d in evaluation.drawn[:8]])
    tracker.log_image("samples/pretrain", image_grids.image_grid(images, 8), evaluation.round_idx)


def log_tuned(tracker: Tracker, tuned: Evaluation, real: RealData) -> None:
    """Write one row per pre-training client that has trained on for its score."""
    tracker.log_table(TUNED_TABLE, tuned.table(real))


def log_profile(tracker: Tracker, run_dir: Path) -> None:
    """Write the profile of a run, if it has one; large files are left out."""
    for path in sorted((run_dir / PROFILE).glob("*")):
        if path.stat().st_size <= MAX_PROFILE_BYTES:
            tracker.log_file(path, f"{PROFILE}/{path.name}")


def log_adaptation(
    tracker: Tracker,
    setting: FederationSetup,
    real: RealData,
    evaluations: Sequence[Evaluation],
    adaptation: Adaptation,
) -> None:
    """Write the new clients' curves over epochs, tables and figures, and the pre-training curve."""
    for epoch, metrics in adaptation_metrics(adaptation).items():
        tracker.log_metrics(metrics, step=epoch)
    rows = new_client_rows(adaptation, real, setting.config.eval.kid_subset_size)
    with_worlds = with_world(rows, setting, adaptation)
    tracker.log_table(NEW_CLIENTS_TABLE, as_columns(with_worlds))
    if tags := copies_tags([one.neighbours for one in adaptation.reports], setting.config.seed):
        tracker.log_tags(tags)
    if adaptation.reports:
        fit_duration_s = fmean(one.fit_duration_s for one in adaptation.reports)
        tracker.log_tags({FIT_TAG: repr(fit_duration_s)})
    if adaptation.image_controls:
        controls = control_rows(adaptation, rows, real, setting)
        tracker.log_table(CONTROLS_TABLE, as_columns(controls))
        tracker.log_tags(image_tags(controls, with_worlds))
    if tracker.keeps_files:
        log_adaptation_figures(tracker, setting, real, adaptation)
        log_pretraining_figure(tracker, setting, real, evaluations)


def log_diagnoses(tracker: Tracker, diagnoses: Sequence[Diagnosis]) -> None:
    """Write the known failures of a run into a tag, a file and the log."""
    for diagnosis in diagnoses:
        text = "%s: %s. Try %s (docs/diagnoses.md)"
        _log.warning(text, diagnosis.name, diagnosis.evidence, diagnosis.advice)
    tracker.log_tags({DIAGNOSIS: ",".join(diagnosis.name for diagnosis in diagnoses) or NONE})
    tracker.log_dict({"diagnoses": [d.as_dict() for d in diagnoses]}, "diagnoses.json")


def log_cross_losses(tracker: Tracker, losses: CrossClientMatrix) -> None:
    """Write the cross-client losses, and in a tag the number of clients whose own part is best."""
    best = own_is_best(losses.values)
    tracker.log_tags({"spire.own_is_best": f"{best.sum()}/{len(best)}"})
    log_cross_losses_figure(tracker, losses)


def log_summary(
    tracker: Tracker, setting: FederationSetup, metrics: Mapping[str, float], state_fingerprint: str
) -> None:
    """Write the final metrics, the fingerprint of the final state, and the model."""
    config, image_shape = setting.config, setting.images.shape[1:]
    tracker.log_metrics(metrics, step=FINAL_STEP)
    tracker.log_tags({"state_fingerprint": state_fingerprint})
    guidance = config.eval.guidance if config.adapt.guidance is None else EACH_ITS_OWN
    tracker.log_model(tracker.run_dir / MODEL, image_shape, guidance)


def log_note(tracker: Tracker, result: Result, preset: str | None) -> None:
    """Write the description of a finished run."""
    tracker.log_tags({NOTE: result_note(result, preset)})

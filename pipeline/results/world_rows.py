"""The world of each new client: how many images it has, its steps, and who is like it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.federation.messages import AdaptReport
from pipeline.federation.setup import FederationSetup
from pipeline.results.control_rows import control_columns, fld_excess
from pipeline.results.metric_names import HULL_TV, NEAREST_TV
from pipeline.results.result import Adaptation
from spire_core.adaptation.set_aside import num_set_aside
from spire_core.federated.messages import steps_per_epoch
from spire_core.partition.coverage import Coverage, coverages


def coverage_texts(setting: FederationSetup) -> dict[str, str]:
    """Return how far new clients' class mixtures are from pre-training clients', on average.

    With an independent partition the first clients of each kind count, so that distances to all
    pre-training clients are at most these.
    """
    found = _coverages(setting)
    if not found:
        return {}
    hull, nearest = ([one.hull_tv for one in found], [one.nearest_tv for one in found])
    return {HULL_TV: f"{np.mean(hull):.4f}", NEAREST_TV: f"{np.mean(nearest):.4f}"}


def with_world(
    rows: Sequence[dict[str, Any]], setting: FederationSetup, adaptation: Adaptation
) -> list[dict[str, Any]]:
    """Return new clients' rows with their worlds and, with `eval.controls`, who is like them.

    Clients may have different controls: every row has the columns of all. Other runs, whose tags
    have the mean coverage, do not work it out again at their end.
    """
    controls = _control_columns(adaptation) or [{}] * len(rows)
    blank = dict.fromkeys(name for own in controls for name in own)
    found = _coverages(setting) if setting.config.has_controls else []
    by_id = dict(zip(setting.new_ids, found, strict=False))  # of those shown
    worlds = [_world(setting, report, by_id) for report in adaptation.reports]
    return [
        row | world | blank | own for row, world, own in zip(rows, worlds, controls, strict=True)
    ]


def _control_columns(adaptation: Adaptation) -> list[dict[str, Any]]:
    """Return the columns of each client's controls; none without controls."""
    both = zip(adaptation.reports, adaptation.image_controls, strict=False)
    return [
        control_columns(own) | {"fld_excess": fld_excess(report.fld_gap, own)}
        for report, own in both
    ]


def _world(
    setting: FederationSetup, report: AdaptReport, found: Mapping[int, Coverage]
) -> dict[str, Any]:
    world = {
        "num_train": len(setting.partition.split(report.client_id).train),
        "steps": _steps(setting, report),
    }
    if not setting.config.has_controls:
        return world
    own = found.get(report.client_id)
    hull, nearest = (None, None) if own is None else (own.hull_tv, own.nearest_tv)
    return world | {"hull_tv": hull, "nearest_tv": nearest}


def _coverages(setting: FederationSetup) -> list[Coverage]:
    shown = setting.partition.shown
    counts = shown.class_counts(setting.data.labels, len(setting.data.class_names))
    return coverages(counts, len(shown.train_clients))


def _steps(setting: FederationSetup, report: AdaptReport) -> int | None:
    """Return a client's steps up to its kept epoch; None with privacy, or if it takes none."""
    config = setting.config
    if config.privacy.adapt.is_on or not config.method.record.adapt_parts:
        return None
    num_images = len(setting.partition.split(report.client_id).train)
    if config.sets_aside:
        num_images -= num_set_aside(num_images)
    return report.kept_epoch * steps_per_epoch(num_images, config.adapt.batch_size)

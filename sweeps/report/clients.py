"""Numbers of single clients and of fits along the way, from the store."""

from collections.abc import Sequence
from typing import Any

from pipeline.config.tracking import TrackingConfig
from pipeline.results.metric_names import CONTROLS_TABLE, NEW_CLIENTS_TABLE
from pipeline.tracking.mlflow_queries import histories, table_rows
from sweeps.report.client_dots import ClientRows
from sweeps.report.figures import FORGETTING, KID_ROUNDS, OVERFITTING
from sweeps.report.groups import Group
from sweeps.report.prompts import EPOCHS as PROMPT_EPOCHS

Curves = dict[str, dict[str, list[tuple[int, float]]]]  # by run and metric: steps and values
DRAWN = (*OVERFITTING, KID_ROUNDS, *FORGETTING, *(key for _, key in PROMPT_EPOCHS))


def curves_of(config: TrackingConfig, groups: Sequence[Group], chosen: Sequence[Group]) -> Curves:
    """Return all runs' curves of adaptation; of the chosen groups' runs, all that is drawn."""
    chosen_ids = {run.run_id for group in chosen for run in group.runs}
    curves = {}
    for run in (run for group in groups for run in group.runs):
        keys = DRAWN if run.run_id in chosen_ids else OVERFITTING
        curves[run.run_id] = histories(config, run.run_id, keys)
    return curves


def controls_of(config: TrackingConfig, chosen: Sequence[Group]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the chosen groups' runs that have controls."""
    return {
        run.run_id: table_rows(config, run.run_id, CONTROLS_TABLE)
        for group in chosen
        for run in group.runs
        if run.params.get("eval.controls") == str(True)
    }


def clients_of(config: TrackingConfig, chosen: Sequence[Group]) -> ClientRows:
    """Return each new client's scores in the chosen groups' runs."""
    return {
        run.run_id: table_rows(config, run.run_id, NEW_CLIENTS_TABLE)
        for group in chosen
        for run in group.runs
    }

"""The final numbers of a run that its report reads, and where they come from."""

from dataclasses import replace
from statistics import fmean

from pipeline.config.tracking import TrackingConfig
from pipeline.results.metric_names import (
    CLIENTS_DELTA,
    CLIENTS_EPSILON,
    COPIES_TAGS,
    DELTA,
    EPSILON,
    FIT_TAGS,
    IMAGE_TAGS,
    ROUND_S,
)
from pipeline.tracking.mlflow_queries import TrackedRun, histories
from spire_core.config.method import find_method
from spire_core.privacy.guarantee import CLIENT_UNIT
from sweeps.report.groups import method_of

UP, DOWN, DROPPED = "comm/up_bytes", "comm/down_bytes", "pretrain/dropped"
OF_CLIENTS = {EPSILON: CLIENTS_EPSILON, DELTA: CLIENTS_DELTA}


def with_finals(config: TrackingConfig, run: TrackedRun) -> TrackedRun:
    """Return a run with its costs among its final numbers.

    They are what it sent, in kB per client and round and in MB in all, and its mean seconds per
    round. A client that is in no average counts in no round. A method without pre-training sends
    nothing. With them are the scores of images that are tags. The privacy of whole clients has
    names of its own.
    """
    if run.tags.get("privacy.unit") == CLIENT_UNIT:
        run = replace(run, finals={OF_CLIENTS.get(key, key): v for key, v in run.finals.items()})
    named = (COPIES_TAGS | IMAGE_TAGS | FIT_TAGS).items()
    copies = {key: float(run.tags[tag]) for tag, key in named if tag in run.tags}
    method = find_method(method_of(run) or "")
    if method is not None and not method.is_federated:
        return replace(run, finals={**run.finals, **copies, "comm/total_mb": 0.0})
    sent_at = histories(config, run.run_id, (UP, DOWN, DROPPED, ROUND_S))
    sent = {key: [value for _, value in history] for key, history in sent_at.items()}
    cohort = int(run.params.get("federation.cohort_size", 0))
    costs = {ROUND_S: fmean(sent[ROUND_S])} if sent[ROUND_S] else {}
    if sent[UP]:
        costs["comm/total_mb"] = (sum(sent[UP]) + sum(sent[DOWN])) / 1e6
        if (num_sent := cohort * len(sent[UP]) - sum(sent[DROPPED])) > 0:
            costs["comm/up_kb_per_client_round"] = sum(sent[UP]) / num_sent / 1e3
    return replace(run, finals={**run.finals, **costs, **copies})

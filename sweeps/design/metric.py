"""The metric by which a sweep chooses its best trial."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.config.data import DATASETS
from pipeline.config.schema import Config
from pipeline.results.metric_names import FINAL_METRICS, ROUND_METRICS
from spire_core.errors import ConfigError

OF_PACKAGE = re.compile(r"final/adapt_(\w+)_(?:before|after)")  # a score that `eval.metrics` names
OF_FEATURES = re.compile("kid|forgetting_own")


def check_metric(metric: str, scheduler: str, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError unless every trial reports the metric, given all trials' settings."""
    is_asha, match = scheduler == "asha", OF_PACKAGE.fullmatch(metric)
    known = ROUND_METRICS if is_asha else (*FINAL_METRICS, *ROUND_METRICS)
    asked = settings.get("eval.metrics")
    asked = asked if isinstance(asked, list | tuple) else ()  # a trial refuses anything else
    is_asked = not is_asha and match is not None and match[1] in asked
    if metric not in known and not is_asked:
        why = "which asha has to see while rounds run" if is_asha else ""
        raise ConfigError(
            f"expected a metric that every trial reports{', ' if why else ''}{why}, got "
            f"{metric!r}: choose out of {', '.join(known)}"
        )
    if settings.get("eval.extractor") == "none" and OF_FEATURES.search(metric):
        instead = "pretrain/heldout/own" if is_asha else "final/adapt_heldout_after"
        raise ConfigError(
            f"expected a metric that needs no features with eval.extractor=none, got {metric!r}: "
            f"such as metric={instead}"
        )


def check_searched(metric: str, config: Config) -> None:
    """Raise ConfigError for a metric that a trial cannot have: nothing would be learnt of it."""
    needs, is_tv = None, metric in ("final/adapt_tv_after", "pretrain/tv/mean")
    if metric in FINAL_METRICS and config.federation.num_new_clients == 0:
        needs = "federation.num_new_clients above 0"
    elif is_tv and config.model.text != "none":
        needs = "model.text=none, since captions decide the classes,"
    elif is_tv and not _has_own_classifier(config):
        needs = "the data set's own classifier as eval.extractor"
    elif config.eval.extractor == "none" and OF_FEATURES.search(metric):
        needs = "an eval.extractor"
    if needs is not None:
        raise ConfigError(
            f"expected {needs} for a search or a scheduler with metric={metric}, got a trial "
            "without it: choose another metric"
        )


def check_watched(config: Config) -> None:
    """Raise ConfigError for a trial that scheduler=asha could never stop."""
    if not config.method.record.is_federated:
        raise ConfigError(
            f"expected methods with rounds for scheduler=asha, got {config.method.name}: it stops "
            "trials by what they report after rounds; set scheduler=none"
        )
    num_rounds = config.federation.num_rounds
    if not 0 < config.eval.every < num_rounds:
        raise ConfigError(
            f"expected eval.every above 0 and below federation.num_rounds={num_rounds} for "
            f"scheduler=asha, got {config.eval.every}: it stops trials by what they report between "
            "rounds; change it, or set scheduler=none"
        )


def _has_own_classifier(config: Config) -> bool:
    """Return whether a trial's extractor predicts the classes of its data set."""
    own, extractor = f"{config.data.name}-cnn", config.eval.extractor
    is_auto = extractor == "auto" and config.data.name in DATASETS
    is_blind = config.partition.style == "tint" and own != "cifar10-cnn"  # "auto" sees colours
    return extractor == own or (is_auto and not is_blind)

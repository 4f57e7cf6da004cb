"""MLflow's own settings, and its system metrics.

Here and in the other files of this folder mlflow is imported only inside functions: it takes a
second, and not every command needs it.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

from pipeline.config.tracking import TrackingConfig, tracking_uri

DEFAULTS = {  # of the environment; what the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A request that fails is repeated at once; the relay has the longer pauses.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
}


def quiet_mlflow() -> None:
    """Import mlflow with our defaults, and without messages about creating a database."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401  (it sets its loggers' levels when it is imported)

    for name in ("mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    # These repeat what is raised as well, or is mended by the next try.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def system_load(config: TrackingConfig) -> Callable[[], dict[str, float]] | None:
    """Return a function that samples this machine, None unless MLflow's own switch is on.

    It returns the metrics since its last call, in MLflow's names and units. The samples, one for
    each round, go through the outbox like every metric, so that a server that does not answer loses
    none.
    """
    if not config.enabled:
        return None
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        return None
    monitor: Any = SystemMetricsMonitor("never started", tracking_uri=tracking_uri(config))

    def sample() -> dict[str, float]:
        monitor.collect_metrics()
        sampled = monitor.aggregate_metrics()
        for one in monitor.monitors:
            one.clear_metrics()
        return {f"system/{key}": value for key, value in sampled.items()}

    sample()  # the use of a processor is counted from one sample to the next
    return sample

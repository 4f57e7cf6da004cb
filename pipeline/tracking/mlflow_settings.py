"""MLflow's own settings, and its system metrics.

Here and in the other files of this folder mlflow is imported only inside functions: it takes a
second, and not every command needs it.
"""

import logging
import os
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


class SystemLoad:
    """Samples MLflow's monitors of processors, memory, disk, network and GPUs.

    The samples, one for each round, go through the outbox like every metric, so that a server that
    does not answer loses none.
    """

    def __init__(self, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor: Any = SystemMetricsMonitor("never started", tracking_uri=uri)
        self.sample()  # the use of a processor is counted from one sample to the next

    def sample(self) -> dict[str, float]:
        """Return the metrics since the last sample, in MLflow's names and units."""
        self._monitor.collect_metrics()
        sampled = self._monitor.aggregate_metrics()
        for monitor in self._monitor.monitors:
            monitor.clear_metrics()
        return {f"system/{key}": value for key, value in sampled.items()}


def system_load(config: TrackingConfig) -> SystemLoad | None:
    """Return the sampler of this machine, None unless MLflow's own switch is on."""
    if not config.enabled:
        return None
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    return SystemLoad(tracking_uri(config)) if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() else None

"""MLflow's own settings, and its system metrics.

Here and in the other files of this folder mlflow is imported only inside functions: it takes a
second, and not every command needs it.
"""

import contextlib
import logging
import os
from typing import Any

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
    """Samples MLflow's monitors of processors, memory, disk, network and NVIDIA GPUs.

    The samples, one for each round, go through the outbox like every metric, so that a server that
    does not answer loses none.
    """

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no library of NVIDIA's, or no GPU
            self._monitors.append(GPUMonitor())
        self.sample()  # the use of a processor is counted from one sample to the next

    def sample(self) -> dict[str, float]:
        """Return the metrics since the last sample, in MLflow's names and units."""
        sampled: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            sampled |= {f"system/{k}": value for k, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return sampled


def system_load() -> SystemLoad | None:
    """Return the sampler of this machine, None unless MLflow's own switch is on."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    return SystemLoad() if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() else None

"""MLflow's system metrics of the machine of a run's own process, one sample for each round.

MLflow's own switch turns them on: MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true. They go through the
outbox like every metric, so that a server that does not answer loses none and delays nothing.
"""

import logging
from typing import Any

_log = logging.getLogger(__name__)


class SystemLoad:
    """Samples MLflow's monitors of processors, memory, disk, network and NVIDIA GPUs."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics import cpu_monitor, disk_monitor, network_monitor

        self._monitors: list[Any] = [
            cpu_monitor.CPUMonitor(),
            disk_monitor.DiskMonitor(),
            network_monitor.NetworkMonitor(),
            *_gpu_monitors(),
        ]
        self.sample()  # the use of a processor is counted from one sample to the next

    def sample(self) -> dict[str, float]:
        """Return the metrics since the last sample, in MLflow's names and units."""
        sampled: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            sampled |= {
                f"system/{key}": value for key, value in monitor.aggregate_metrics().items()
            }
            monitor.clear_metrics()
        return sampled


def system_load() -> SystemLoad | None:
    """Return the sampler of this machine, None unless MLflow's switch is on."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    return SystemLoad() if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() else None


def _gpu_monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    try:
        return [GPUMonitor()]
    except (ImportError, RuntimeError) as error:  # no library of NVIDIA's, or no GPU
        _log.debug("no metrics of GPUs: %s", error)
        return []

"""Work for clients: the calls of a task, and the failures that stand in the place of results."""

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.federation.machine_faults import LESS_MEMORY, has_lost_gpu, lacks_memory
from spire_core.errors import ClusterError, SpireError, first_line

SEE_LOG = "see the log above and under the Ray session folder"

logger = logging.getLogger(__name__)

Unit = int | tuple[int, ...]
"""The clients of one call of a task: a single one, or a group that is computed together."""


@dataclass(frozen=True)
class Work:
    """The calls `task(unit, *args, *per_unit[i])`; `costs` are the times they take, in any unit.

    `is_wave`: every call is alone on its worker; there are no more of them than workers.
    """

    task: str
    units: Sequence[Unit]
    args: tuple
    per_unit: Sequence[tuple]
    costs: Sequence[float]
    is_wave: bool = False

    def part(self, positions: Sequence[int], is_wave: bool = False) -> "Work":
        """Return the calls at these positions."""
        return replace(
            self,
            is_wave=is_wave,
            units=[self.units[i] for i in positions],
            per_unit=[self.per_unit[i] for i in positions],
            costs=[self.costs[i] for i in positions],
        )


@dataclass(frozen=True)
class ClientFailure:
    """Stands in the place of a unit's result.

    `num_lost`: the number of units that were lost at once, with their process or node, this one
    included; 0 if the unit failed by itself. `remedy`: advice for the user, other than to look at
    the log where the machine lacks something.
    """

    unit: Unit
    cause: str
    num_lost: int = 0
    remedy: str = SEE_LOG

    @property
    def names(self) -> str:
        """The unit's clients, for a sentence."""
        if isinstance(self.unit, int):
            return f"client {self.unit}"
        many = "s" if len(self.unit) > 1 else ""
        return f"client{many} {', '.join(map(str, self.unit))}"

    def error(self, task: str, where: str) -> ClusterError:
        """Return the error that ends a run which needs this unit's work."""
        return ClusterError(
            f"expected {task} to end for {self.names}{where}, got {self.cause}: "
            f"{self.remedy}; spire resume goes on from the last checkpoint"
        )


def run_here(worker: Any, work: Work) -> list[Any]:
    """Run a task for some units on one worker; one unit's error spares the others.

    An error after which this process can compute nothing more is raised.
    """
    results: list[Any] = []
    for unit, extra in zip(work.units, work.per_unit, strict=True):
        try:
            results.append(getattr(worker, work.task)(unit, *work.args, *extra))
        except SpireError:
            raise
        except Exception as error:
            logger.debug("%s", traceback.format_exc())
            if has_lost_gpu(error):
                raise
            results.append(_failure(unit, error))
    return results


def _failure(unit: Unit, error: Exception) -> ClientFailure:
    if lacks_memory(error):
        return ClientFailure(unit, f"too little memory ({first_line(error)})", remedy=LESS_MEMORY)
    at = traceback.extract_tb(error.__traceback__)[-1]
    return ClientFailure(unit, f"{error!r} at {at.filename.rpartition('/')[2]}:{at.lineno}")


def lost_together(units: Sequence[Unit], cause: str, remedy: str = SEE_LOG) -> list[Any]:
    """Return the failures of units that were lost with their process."""
    return [ClientFailure(unit, cause, len(units), remedy) for unit in units]

"""The runs of a sweep that its primary comparisons are of, known before any of them begins."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from pipeline.config.meaning import reads, switched_off
from pipeline.config.schema import Config
from spire_core.methods import METHODS
from sweeps.design.config import SweepConfig, settings_of
from sweeps.design.points import run_of, trials
from sweeps.primary import TASK, Primary, Run

NONE = "None"


def planned_configs(sweep: SweepConfig) -> list[Config]:
    """Return the configurations of all trials of a grid, on one seed; none of a search.

    Equivalent ones are one. ConfigError if a trial's configuration is wrong.
    """
    if sweep.is_drawn:
        return []
    return [one.config for one in trials(replace(sweep, seeds=sweep.seeds[:1]))]


def axis_keys(sweep: SweepConfig) -> set[str]:
    """Return the settings that values on the axes of a grid name."""
    return {
        key for name, axis in sweep.axes.items() for one in axis for key in settings_of(name, one)
    }


def counting(config: Config, keys: Collection[str]) -> dict[str, str]:
    """Return those of a run's params, out of `keys`, that make a difference to a configuration.

    None does that its method does not read, or that another setting switches off. A budget that is
    None switches itself off, so that None counts.
    """
    method, params = config.method.record, run_of(config)[1]
    return {
        key: params[key]
        for key in params.keys() & {*keys}
        if reads(method, key) and (params[key] == NONE or switched_off(key, config) is None)
    }


def planned_tasks(primary: Primary, planned: Sequence[Run]) -> list[dict[str, str]]:
    """Return the tasks of the planned runs on either side of a comparison, each once.

    A task is given by those of its settings in which planned runs differ.
    """
    wholes = [
        {key: value for key, value in sorted(params.items()) if key.startswith(TASK)}
        for _, params in planned
    ]
    keys = [key for key in next(iter(wholes), ()) if len({whole[key] for whole in wholes}) > 1]
    return whole_tasks(
        {key: whole[key] for key in keys if reads(METHODS[run[0]], key)}
        for whole, run in zip(wholes, planned, strict=True)
        if any(side.fits(*run) for side in primary.sides)
    )


def whole_tasks(tasks: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Return tasks, each once, without one of which another says more.

    Less says one whose method does not read all settings of a task: its runs stand in several.
    """
    found = list[dict[str, str]]()
    for task in tasks:
        if task not in found:
            found.append(task)
    return [task for task in found if not any(task.items() < more.items() for more in found)]

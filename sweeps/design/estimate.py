"""The expected time of a sweep on this machine's CPUs."""

import functools
from collections.abc import Sequence

from pipeline.config.meaning import pretrain_fingerprint
from pipeline.experiment.estimate import START_S, adaptation_s, kind_of, measure, pretraining_s
from sweeps.design.points import Trial
from sweeps.design.trial_plan import TrialPlan


def sweep_seconds(
    planned: Sequence[tuple[Trial, TrialPlan]], at_once: int, done: Sequence[Trial] = ()
) -> float:
    """Return the seconds of these trials, `at_once` at a time, after the trials that are done.

    A pre-training that several trials share counts once. Pre-trainings of other sweeps, which may
    be reused, count again. DataError if an image folder is missing.
    """
    measured = functools.cache(measure)
    begun = {pretrain_fingerprint(trial.config) for trial in done if trial.shares_pretraining}
    total = 0.0
    for trial, plan in planned:
        config, workers = trial.config, plan.workers
        costs, shared = measured(kind_of(config)), pretrain_fingerprint(config)
        work = adaptation_s(config, costs)
        if not (trial.shares_pretraining and shared in begun):
            work += pretraining_s(config, costs)
        begun.add(shared)
        total += START_S + work / (workers.num_actors * min(1.0, workers.num_cpus))
    return total / max(1, min(at_once, len(planned)))

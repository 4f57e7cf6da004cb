"""The errors that SPIRE raises on purpose.

Each message is one sentence of the form "expected ..., got ...: what to do". All of them take one
message argument and define no `__init__`, so that they keep their type when they cross a process.
"""


class SpireError(Exception):
    """Base of every error that SPIRE raises on purpose; the command line shows its message only."""


class ConfigError(SpireError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""


class DataError(SpireError, ValueError):
    """A data set is missing, damaged, or cannot be split as asked."""


class WeightsError(SpireError, RuntimeError):
    """The weights of a feature extractor are missing or are not what they should be."""


class AggregationError(SpireError, ValueError):
    """Client updates cannot be averaged: no weight, differing sizes, or values not finite."""


class DivergenceError(AggregationError):
    """Updates cannot be averaged because training has driven their numbers out of all bounds."""


class ClusterError(SpireError, RuntimeError):
    """The machines at hand cannot run what was asked for, or an actor was lost."""


class StoreError(ClusterError):
    """The store of the runs does not answer, or refuses: time may mend it."""


class RunError(SpireError, ValueError):
    """A finished run cannot be found or cannot be used in the way that was asked for."""

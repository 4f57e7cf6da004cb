"""The errors that SPIRE raises on purpose.

Each message is one sentence of the form "expected ..., got ...: what to do". All classes take one
message argument and define no `__init__`, so that they keep their type between processes.
"""


class SpireError(Exception):
    """Base of every error that SPIRE raises on purpose; the command line shows its message only."""


class ConfigError(SpireError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""


class DataError(SpireError, ValueError):
    """A data set is missing, damaged, or cannot be split as asked."""


class WeightsError(SpireError, RuntimeError):
    """The weights of a feature extractor are missing or wrong."""


class DivergenceError(SpireError, ValueError):
    """Updates cannot be averaged because training has diverged."""


class BudgetError(SpireError, ValueError):
    """A step would spend more privacy than a run has."""


class ClusterError(SpireError, RuntimeError):
    """The available machines cannot run the task, or an actor was lost."""


class StoreError(ClusterError):
    """The store of the runs does not answer or refuses; a later try may succeed."""


class FormatError(SpireError, RuntimeError):
    """A file was written by a newer version, which alone can read it; nothing may delete it."""


class RunError(SpireError, ValueError):
    """A finished run cannot be found, or does not allow the requested use."""


class BusyError(RunError):
    """Another process is at work on a run; a later try may succeed."""


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a machine or of a GPU is full."""
    text = str(error)  # of torch, for a GPU or for a machine
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, for the middle of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

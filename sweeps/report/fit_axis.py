"""The axis along a new client's fit: optimizer steps, by which methods are compared, or epochs."""

from collections.abc import Callable, Sequence

from pipeline.results.params import default_params
from spire_core.adaptation.set_aside import num_set_aside
from spire_core.config.method import find_method
from spire_core.federated.messages import steps_per_epoch
from sweeps.report.groups import UNSET, Group, as_number

EPOCHS = "epochs of adaptation"
STEPS = "optimizer steps of a client with adapt.num_images images"


def fit_axis(groups: Sequence[Group]) -> tuple[str, Callable[[Group], int]]:
    """Return the axis' name, and what a group's epochs are multiplied by to stand on it.

    The axis has epochs if the settings alone do not tell a client's steps. A client that holds
    fewer than `adapt.num_images` images takes fewer steps, as the axis says.
    """
    if any(epoch_steps(group) is None for group in groups):
        return EPOCHS, lambda _: 1
    return STEPS, lambda group: epoch_steps(group) or 1


def epoch_steps(group: Group) -> int | None:
    """Return the optimizer steps of an epoch of a client with `adapt.num_images` images.

    None where the settings do not limit clients to so many, and with privacy.
    """
    params = {**default_params(), **group.runs[0].params}
    keys = ("adapt.num_images", "adapt.batch_size")
    num_images, batch_size = (as_number(params[key]) for key in keys)
    is_private = params["privacy.adapt.epsilon"] != UNSET
    if is_private or num_images is None or batch_size is None:
        return None
    left = int(num_images)
    if sets_aside(group):
        left -= num_set_aside(left)
    return steps_per_epoch(left, int(batch_size))


def sets_aside(group: Group) -> bool:
    """Return whether new clients fit a part of their images alone, as `Config.sets_aside` says."""
    params, record = {**default_params(), **group.runs[0].params}, find_method(group.method)
    chooses = params["adapt.early_stopping"] == "True" or params["adapt.guidance"] != UNSET
    return chooses and (record is None or bool(record.adapt_parts))

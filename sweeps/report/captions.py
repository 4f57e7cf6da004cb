"""Tasks with captions, in which KID orders nothing: images are drawn for those of the reference."""

from collections.abc import Iterable

from sweeps.primary import KIDS
from sweeps.report.groups import OWN_KID, Group

OF_KID = (*KIDS, OWN_KID)


def has_text(groups: Iterable[Group]) -> bool:
    """Return whether runs of a task draw images for captions."""
    return any(run.params.get("model.text", "none") != "none" for g in groups for run in g.runs)

"""New clients that pre-training clients cover, beside those that they do not, in one run."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

COVERED_TV = 0.05  # the hull TV of a client up to which it counts as covered


def covered_ratio(clients: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the mean KID of covered new clients by that of the others.

    None without clients of both kinds. 0 where the others score no KID above zero, which stands for
    no ratio: comparisons are of ratios alone, and refuse such a run in place of leaving it out for
    what it scored.
    `clients`: numbers of new clients by the columns of their rows. All share a run's backbone and
    steps, so that between methods this ratio differs by what coverage does to each.
    """
    kids: dict[bool, list[float]] = {True: [], False: []}
    for client in clients:
        hull, kid = client.get("hull_tv"), client.get("kid_after")
        if hull is not None and kid is not None:
            kids[hull <= COVERED_TV].append(kid)
    if not kids[True] or not kids[False]:
        return None
    others = fmean(kids[False])
    return fmean(kids[True]) / others if others > 0 else 0.0

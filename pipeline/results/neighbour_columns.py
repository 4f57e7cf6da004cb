"""Generated images among a client's training and held-out images, as numbers of tables."""

from collections.abc import Sequence
from statistics import fmean

from pipeline.results.metric_names import COPIES_TAGS
from spire_core.evaluation.memorisation import Neighbours, exchange_p
from spire_core.privacy.membership import ClientScores, auc


def neighbour_columns(near: Neighbours | None) -> dict[str, float]:
    """Return the share, that of chance, and how well images tell training from held-out images.

    The AUC is that of a guess which calls an image a training image if a generated one is near.
    """
    if near is None:
        return {}
    reach = ClientScores(-near.train_reach, -near.test_reach)
    return {"nn_share": near.share, "nn_chance": near.chance, "nn_auc": auc(reach)}


def copies_tags(near: Sequence[Neighbours | None], seed: int) -> dict[str, str]:
    """Return new clients' mean share, that of chance, and the p-value; empty without clients."""
    known = [one for one in near if one is not None]
    if not known:
        return {}
    means = (fmean(one.share for one in known), fmean(one.chance for one in known))
    return dict(zip(COPIES_TAGS, map(repr, (*means, exchange_p(known, seed))), strict=True))


def pooled_p(near: Sequence[Neighbours | None], seed: int) -> float | None:
    """Return the p-value over all clients that can be tested; None if none can."""
    known = [one for one in near if one is not None]
    return exchange_p(known, seed) if known else None

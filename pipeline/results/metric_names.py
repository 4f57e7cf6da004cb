"""The numbers that sweeps may ask for, by the names under which they are tracked."""

ROUND_METRICS = (  # seen while pre-training runs
    "pretrain/kid/mean",
    "pretrain/kid/worst",
    "pretrain/kid/std",
    "pretrain/tv/mean",
    "pretrain/heldout/own",
)
FINAL_METRICS = (  # of new clients, which every method has
    "final/adapt_kid_after",
    "final/adapt_kid_ratio",
    "final/adapt_kid_worst",
    "final/adapt_tv_after",
    "final/adapt_heldout_after",
    "final/adapt_forgetting_own",
)


def final_name(round_metric: str) -> str:
    """Return the name under which a run keeps a round's metric after the last round."""
    return f"final/{round_metric.replace('/', '_')}"

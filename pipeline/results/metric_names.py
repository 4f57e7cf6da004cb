"""The names of metrics and tables that several files use.

Numbers of an evaluation are named in `pipeline.evaluation.scores`, those of a round and of the end
in `pipeline.results.metrics`.
"""

TRAIN_LOSS, DROPPED = "pretrain/loss", "pretrain/dropped"
ROUND_S = "time/round_s"  # of every round
EPSILON, DELTA = "privacy/epsilon", "privacy/delta"  # the unit is in a tag
NN_SHARE, NN_CHANCE, NN_P = (f"final/adapt_nn_{name}" for name in ("share", "chance", "p"))
NN_EXCESS = "final/adapt_nn_excess"  # the share minus chance; of reports alone
# Tags of a run, and the final values in reports that they stand for: runs have metrics enough.
COPIES_TAGS = {"copies.nn_share": NN_SHARE, "copies.nn_chance": NN_CHANCE, "copies.nn_p": NN_P}
PRECISION, RECALL = "final/adapt_precision", "final/adapt_recall"
FLD, ELBO = "final/adapt_fld_above_fresh", "final/adapt_elbo"  # of new clients; lower is better
NOVEL_KID, COVERED_RATIO = "final/adapt_novel_kid_after", "final/adapt_covered_ratio"
OLD_SCORES = ["fld_above_fresh", "novel_kid", "nn_share", "nn_chance"]  # means of the last table
OLD_FLD, OLD_NOVEL_KID = (f"final/pretrain_{name}" for name in OLD_SCORES[:2])
IMAGE_TAGS = {"images.precision": PRECISION, "images.recall": RECALL}  # likewise
IMAGE_TAGS |= {"copies.fld_above_fresh": FLD, "coverage.kid_ratio": COVERED_RATIO}
FIT_TAG = "adapt.fit_duration_s"
FIT_TAGS = {FIT_TAG: "final/adapt_fit_duration_s"}  # likewise
TUNED_TABLE = "tables/pretrain_tuned.json"
NEW_CLIENTS_TABLE, CONTROLS_TABLE = "tables/new_clients.json", "tables/controls.json"
CONTROL_NAMES = {  # of `CONTROLS_TABLE`, in words
    "copies": "copies of the training images",
    "fresh": "fresh images",
    "nearest_draws": "the nearest client's draws",
    "nearest_images": "the nearest client's images",
}
AUDITED_TABLE = "tables/privacy_clients.json"
FINAL_STEP = 0  # of single values: MLflow draws bars only for metrics that have no other step
PRETRAINING = ("pretrain/", "time/", "comm/", "memory/")  # prefixes in rounds and evaluations

ROUND_METRICS = (  # that sweeps may ask for while pre-training runs
    "pretrain/kid/mean",
    "pretrain/kid/worst",
    "pretrain/kid/std",
    "pretrain/tv/mean",
    "pretrain/heldout/own",
)
FINAL_METRICS = (  # that sweeps may ask for at the end: of new clients, which every method has
    "final/adapt_kid_after",
    "final/adapt_kid_ratio",
    "final/adapt_kid_worst",
    "final/adapt_tv_after",
    "final/adapt_heldout_after",
    "final/adapt_forgetting_own",
)
ADAPT_SCORES = {  # metrics of an epoch of adaptation, by the name of a client's score
    "own_kid": "adapt/kid/mean",
    "tv": "adapt/tv/mean",
    "heldout_loss": "adapt/heldout/mean",
    "population_kid": "adapt/kid/population",
    "fld": "copies/fld",
    "novel_kid": "copies/novel_kid",
    "elbo": "adapt/elbo",
    "prompt_accuracy": "text/prompt_accuracy",
    "true_accuracy": "text/true_accuracy",
    "style_distance": "text/style_distance",
    "retrieved": "text/retrieved",
    "copied": "text/copied",
}
FORGETTING = ("own", "global", "replaced", "prompts")  # curves of a new client


def pretraining_table(round_idx: int) -> str:
    """Return the path of the table of pre-training clients' scores after a round."""
    return f"tables/pretrain_round_{round_idx}.json"


def final_name(round_metric: str) -> str:
    """Return the name under which a run keeps a round's metric after the last round."""
    return f"final/{round_metric.replace('/', '_')}"


def tuned_name(round_metric: str) -> str:
    """Return the name of a round's metric for fine-tuned pre-training clients, at the end."""
    return final_name(round_metric.replace("pretrain/", "pretrain/tuned/"))

"""Settings of evaluations (`eval.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_choice, check_fields, require
from spire_core.plugins import Plugins

MAX_GUIDANCE = 1000.0
MAX_DRAWN = 100_000  # images of a client at once
HELDOUT, TEST_SPLIT = "heldout", "test_split"  # where the reference of scores comes from
OWN_SCORES = ("kid", "tv", "heldout", "prompt_accuracy", "true_accuracy", "style_distance")
OWN_SCORES += ("retrieved", "retrieval_rank", "copied", "shown_distance")
OTHER_METRICS = Plugins("metric", OWN_SCORES)


@dataclass(frozen=True)
class EvalConfig:
    """What is measured, how often, and on how many images.

    `extractor`: "auto" takes the small classifier of the data set, or Inception if it has none;
    "none" leaves out all scores that need features. `metrics`: scores of new clients' images that
    other packages bring. `reference`: the real images of a client's KID and its floor, and of
    precision and recall; "heldout" are its own held-out images, "test_split" images of the data's
    test split with its class mixture.

    `num_images`: images drawn for each client. `every`: rounds between two evaluations of
    pre-training; 0 evaluates before the first and after the last alone. `num_clients`: the number
    of evaluated pre-training clients; None is all of them, or 100 if there are more than 1000, and
    in such a population the first to take part.

    `guidance`: the factor on the difference between the personal and the impersonal prediction; 1
    turns it off. `guidance_interval`: the lowest and the highest noise level sigma at which it
    applies (Kynkäänniemi et al. 2024, arXiv 2404.07724); None is all. `text_guidance`: the same for
    the predictions with and without a caption. `controls`: score new clients' controls as well,
    which are images that no fit has drawn, such as copies of the training images; without effect
    where there is no KID, and with text, whose prompts have controls of their own.
    """

    extractor: str = "auto"
    metrics: tuple[str, ...] = ()
    extractor_weights: str | None = None
    reference: Annotated[str, Choice(HELDOUT, TEST_SPLIT)] = HELDOUT
    num_images: Annotated[int, Range(2, 1_000_000)] = 128
    every: Annotated[int, Range(0)] = 100
    num_clients: Annotated[int | None, Range(1, 100_000)] = None
    kid_subset_size: Annotated[int, Range(2)] = 1000
    kid_num_subsets: Annotated[int, Range(1, 100_000)] = 20
    guidance: Annotated[float, Range(0, MAX_GUIDANCE)] = 1.0
    guidance_interval: Annotated[tuple[float, float] | None, Range(0)] = None
    text_guidance: Annotated[float, Range(0, MAX_GUIDANCE)] = 1.0
    num_loss_images: Annotated[int, Range(2)] = 128
    controls: bool = True
    grid_images: Annotated[int, Range(1, 10_000)] = 16
    batch_size: Annotated[int, Range(2, 100_000)] = 128

    def __post_init__(self) -> None:
        check_fields(self, "eval")
        for name in self.metrics:
            if OTHER_METRICS.find(name) is None:
                known = OTHER_METRICS.names() or ["those of installed packages, none here"]
                check_choice("eval.metrics", name, known)
        interval = self.guidance_interval
        is_rising = interval is None or interval[0] < interval[1]
        advice = "name the lowest noise level first, such as [0.2, 5], or null for all"
        require(is_rising, "an eval.guidance_interval that rises", interval, advice)

    @property
    def clients_per_batch(self) -> int:
        """How many clients' images are drawn as one batch."""
        return max(1, self.batch_size // self.num_images)

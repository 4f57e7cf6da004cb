"""Settings of the split of a data set over clients (`partition.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields, require

INDEPENDENT, NATURAL = "independent", "natural"
DEALT = ("iid", "dirichlet", "inner_dirichlet", "pathological")
SCHEME_NAMES = (*DEALT, INDEPENDENT, NATURAL)
STYLES = ("none", "rotation", "tint", "stroke")


@dataclass(frozen=True)
class PartitionConfig:
    """How images are split over clients.

    `alpha`: for dirichlet, inner_dirichlet and independent, the concentration of a client's class
    mixture; below 1 few classes, far above 1 all of them alike. `classes_per_client`: for
    pathological. `client_size`: for iid, inner_dirichlet and independent, the images per client;
    None is an equal share, and independent needs a number.
    `num_train_classes`: pre-training clients hold the first so many classes alone, None for all.
    New clients are not restricted, so they may hold classes that the backbone never saw. It is not
    for independent and natural.

    `natural` takes the clients that the data have: fonts, or folders of the user's own images.
    `new_clients`: the names of the new clients; without names they are drawn from the seed.
    `hidden`: classes that no client trains on, each a class name or a pattern of captions such as
    "latin capital letter *"; their images are test images. `hidden_from_new`: the same for new
    clients alone.

    `style`: each client draws its images in a way of its own, which is one number drawn from the
    seed: "rotation" turns them by up to 45 degrees, "tint" colours grey images, "stroke" thickens
    or thins them. It is not for independent, whose clients share images.

    `min_size`: the fewest images of a client, train and test together. `test_fraction`: the share
    of each client's images that is held out.
    """

    name: Annotated[str, Choice(*SCHEME_NAMES)] = "inner_dirichlet"
    alpha: Annotated[float, Range(above=0, advice="use 0.1, say")] = 0.1
    classes_per_client: Annotated[int, Range(1)] = 2
    client_size: int | None = None
    num_train_classes: Annotated[int | None, Range(1)] = None
    new_clients: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    hidden_from_new: tuple[str, ...] = ()
    style: Annotated[str, Choice(*STYLES)] = "none"
    min_size: Annotated[int, Range(2)] = 20
    test_fraction: Annotated[float, Range(above=0, below=1, advice="use 0.25, say")] = 0.25

    def __post_init__(self) -> None:
        check_fields(self, "partition")
        if self.name == INDEPENDENT:
            self._check_independent()
        self._check_natural()
        if self.client_size is not None:
            expected = f"no partition.client_size with {self.name}"
            takes_size = self.name in ("iid", "inner_dirichlet", INDEPENDENT)
            require(takes_size, expected, self.client_size, "use null, the scheme sets the sizes")
            expected = f"partition.client_size of at least partition.min_size ({self.min_size})"
            is_enough = self.client_size >= self.min_size
            require(is_enough, expected, self.client_size, "raise it or lower min_size")

    def _check_natural(self) -> None:
        for name in ("new_clients", "hidden", "hidden_from_new"):
            given, expected = getattr(self, name), f"no partition.{name} with {self.name}"
            advice = f"use [], or partition={NATURAL}"
            require(self.name == NATURAL or not given, expected, list(given), advice)
            is_once = len(set(given)) == len(given)
            require(is_once, f"different entries of partition.{name}", list(given), "drop one")
        is_open = self.name != NATURAL or self.num_train_classes is None
        expected = f"no partition.num_train_classes with {NATURAL}"
        require(is_open, expected, self.num_train_classes, "use partition.hidden")

    def _check_independent(self) -> None:
        expected = f"partition.client_size with {INDEPENDENT}"
        is_sized = self.client_size is not None
        require(is_sized, expected, self.client_size, "name a number of images, 64, say")
        expected = f"no partition.style with {INDEPENDENT}"
        require(self.style == "none", expected, self.style, "use none, or another partition.name")
        expected = f"no partition.num_train_classes with {INDEPENDENT}"
        has_all = self.num_train_classes is None
        require(has_all, expected, self.num_train_classes, "use null, or another partition.name")

"""Settings of the split of a data set over clients (`partition.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_choice, check_fields, require
from spire_core.plugins import Plugins

INDEPENDENT, NATURAL = "independent", "natural"
DEALT = ("iid", "dirichlet", "inner_dirichlet", "pathological")
SCHEME_NAMES = (*DEALT, INDEPENDENT, NATURAL)
SIZED = ("iid", "inner_dirichlet", INDEPENDENT)  # schemes that take a client's size
OTHER_PARTITIONS = Plugins("partition", SCHEME_NAMES)
STYLES = ("none", "rotation", "tint", "stroke")


@dataclass(frozen=True)
class PartitionConfig:
    """How images are split over clients; `name` is one of ours, or one of another package.

    `alpha`: for dirichlet, inner_dirichlet and independent, the concentration of a client's class
    mixture; below 1 few classes, far above 1 all of them alike. `classes_per_client`: for
    pathological. `client_size`: for iid, inner_dirichlet and independent, the images per client;
    None is an equal share, and independent needs a number. `num_train_classes`: pre-training
    clients hold the first so many classes alone, None for all. New clients are not restricted, so
    they may hold classes that the backbone never saw. It is not for independent and natural.

    `natural` takes the clients that the data have: fonts, or folders of the user's own images.
    `new_clients`: the names of the new clients; without names they are drawn from the seed.
    `hidden`: classes that no client trains on, each a class name or a pattern of captions such as
    "latin capital letter *"; their images are test images. `hidden_from_new`: the same for new
    clients alone.

    `style`: each client draws its images in a way of its own, which is one number drawn from the
    seed: "rotation" turns them by up to 45 degrees, "tint" colours grey images, "stroke" thickens
    or thins them. It is not for independent, whose clients share images.

    `min_size`: the fewest images of a client, train and test together. `test_fraction`: the
    held-out share of each client's images.
    """

    name: str = "inner_dirichlet"
    alpha: Annotated[float, Range(above=0)] = 0.1
    classes_per_client: Annotated[int, Range(1)] = 2
    client_size: int | None = None
    num_train_classes: Annotated[int | None, Range(1)] = None
    new_clients: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    hidden_from_new: tuple[str, ...] = ()
    style: Annotated[str, Choice(*STYLES)] = "none"
    min_size: Annotated[int, Range(2)] = 20
    test_fraction: Annotated[float, Range(above=0, below=1)] = 0.25

    def __post_init__(self) -> None:
        check_fields(self, "partition")
        if self.is_outside and OTHER_PARTITIONS.find(self.name) is None:
            known = (*SCHEME_NAMES, *OTHER_PARTITIONS.names())
            check_choice("partition.name", self.name, known)
        size, is_independent = self.client_size, self.name == INDEPENDENT
        is_dealt = self.name not in (INDEPENDENT, NATURAL)
        is_sized = self.name in SIZED or self.is_outside
        self._require(size is None or is_sized, "no partition.client_size", size)
        self._require(size is not None or not is_independent, "partition.client_size", size)
        self._require(self.style == "none" or not is_independent, "no partition.style", self.style)
        classes = self.num_train_classes
        self._require(classes is None or is_dealt, "no partition.num_train_classes", classes)
        for name in ("new_clients", "hidden", "hidden_from_new"):
            given = list(getattr(self, name))
            self._require(self.name == NATURAL or not given, f"no partition.{name}", given)
            is_once = len(set(given)) == len(given)
            require(is_once, f"different entries of partition.{name}", given, "drop one")
        expected = f"partition.client_size of at least partition.min_size ({self.min_size})"
        require(size is None or size >= self.min_size, expected, size, "raise it or lower min_size")

    @property
    def is_outside(self) -> bool:
        """Whether the split is a function of another package."""
        return self.name not in SCHEME_NAMES

    def _require(self, is_met: bool, expected: str, got: object) -> None:
        advice = "docs/settings.md says which partitions take it"
        require(is_met, f"{expected} with partition={self.name}", got, advice)

"""Settings of the split of a data set over clients (`partition.*`)."""

from dataclasses import dataclass

from spire_core.config.checks import require

INDEPENDENT = "independent"
SCHEME_NAMES = ("iid", "dirichlet", "inner_dirichlet", "pathological", "shard", INDEPENDENT)


@dataclass(frozen=True)
class PartitionConfig:
    """How images are split over clients; `alpha` and the `*_per_client` serve the schemes named.

    With `num_train_classes` the pre-training clients hold images of the first so many classes
    alone, and new clients the same as without it: of classes, too, that the backbone never saw.
    """

    name: str = "inner_dirichlet"  # or iid, dirichlet, pathological, shard, independent
    alpha: float = 0.1  # dirichlets, independent: below 1 concentrated, far above 1 uniform
    classes_per_client: int = 2  # pathological
    shards_per_client: int = 2  # shard
    client_size: int | None = None  # iid, inner_dirichlet: images per client; None = equal share;
    # independent: the same, which has to be given
    num_train_classes: int | None = None  # not with independent; None = all
    min_size: int = 20  # the fewest images a client may hold (train and test together)
    max_retries: int = 20  # fresh draws after a first one that left a client below min_size
    test_fraction: float = 0.25  # of each client's images

    def __post_init__(self) -> None:
        expected = f"partition.name among {', '.join(SCHEME_NAMES)}"
        require(self.name in SCHEME_NAMES, expected, self.name, "choose one")
        is_sized = self.name != INDEPENDENT or self.client_size is not None
        expected = f"partition.client_size with {INDEPENDENT}"
        require(is_sized, expected, self.client_size, "name a number of images, 64, say")
        is_positive = 0 < self.alpha < float("inf")
        require(is_positive, "partition.alpha above 0 and finite", self.alpha, "use 0.1, say")
        is_inside = 0 < self.test_fraction < 1
        expected = "partition.test_fraction between 0 and 1"
        require(is_inside, expected, self.test_fraction, "use 0.25, say")
        is_dealt = self.name != INDEPENDENT or self.num_train_classes is None
        expected = f"no partition.num_train_classes with {INDEPENDENT}"
        require(is_dealt, expected, self.num_train_classes, "use null, or another partition.name")
        if self.num_train_classes is not None:
            expected = "partition.num_train_classes of at least 1"
            require(self.num_train_classes >= 1, expected, self.num_train_classes, "raise it")
        floors = {"classes_per_client": 1, "shards_per_client": 1, "min_size": 2, "max_retries": 0}
        for key, floor in floors.items():
            value = getattr(self, key)
            require(value >= floor, f"partition.{key} of at least {floor}", value, "raise it")
        if self.client_size is not None:
            expected = f"no partition.client_size with {self.name}"
            takes_size = self.name in ("iid", "inner_dirichlet", INDEPENDENT)
            require(takes_size, expected, self.client_size, "use null, the scheme sets the sizes")
            expected = f"partition.client_size of at least partition.min_size ({self.min_size})"
            is_enough = self.client_size >= self.min_size
            require(is_enough, expected, self.client_size, "raise it or lower min_size")

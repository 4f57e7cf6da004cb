"""What is fixed before the first round: the data, who holds which of it, and the model."""

from dataclasses import dataclass

import numpy as np

from pipeline.config import Config
from pipeline.datasets import ImageData, load
from pipeline.resize import resized
from spire_core.errors import DataError
from spire_core.extractor import auto_extractor, make_extractor
from spire_core.flat import FlatModel
from spire_core.partition import Partition, class_mixture, make_partition


@dataclass(frozen=True)
class Setting:
    """All that is fixed before the first round."""

    config: Config
    data: ImageData
    images: np.ndarray  # (N, C, H, W) uint8 at the experiment's size
    partition: Partition
    mixtures: np.ndarray  # (num clients, K)
    extractor: str
    model: FlatModel

    @property
    def train_ids(self) -> list[int]:
        return [c.client_id for c in self.partition.train_clients]

    @property
    def new_ids(self) -> list[int]:
        return [c.client_id for c in self.partition.new_clients]

    @property
    def eval_ids(self) -> list[int]:
        """The pre-training clients that evaluations look at."""
        return self.train_ids[: self.config.eval.num_clients]


def partitioned(config: Config) -> tuple[ImageData, Partition]:
    """Return an experiment's data at their own size and who holds which; mistakes come out here."""
    data = load(config.data, "train")
    partition = make_partition(
        data.labels,
        len(data.class_names),
        config.partition,
        config.federation.num_clients,
        config.federation.num_new_clients,
        config.seed,
        config.adapt.num_images,
    )
    if min(len(c.test) for c in (*partition.train_clients, *partition.new_clients)) < 2:
        raise DataError(
            "expected at least 2 test images per client, got fewer: raise partition.min_size or "
            "partition.test_fraction"
        )
    return data, partition


def prepare(config: Config) -> Setting:
    """Return data, partition and model of an experiment; every mistake in them comes out here."""
    data, partition = partitioned(config)
    name = auto_extractor(config.data.name, config.eval.extractor)
    make_extractor(name, config.eval.extractor_weights)  # missing weights come out now
    images = resized(data.images, config.data.image_size)
    config.model.check_image_size(images.shape[-1])
    model = FlatModel(config.model, config.method, images.shape[1])
    clients = (*partition.train_clients, *partition.new_clients)
    held = [np.concatenate([c.train, c.test]) for c in clients]
    mixtures = np.stack([class_mixture(data.labels, h, len(data.class_names)) for h in held])
    return Setting(config, data, images, partition, mixtures, name, model)

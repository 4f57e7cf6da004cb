"""The data of an experiment and their split over clients; what cannot be is refused."""

import numpy as np

from pipeline.config.schema import Config
from pipeline.data.datasets import ImageData, fitting, is_class, load, load_clients
from spire_core.adaptation.set_aside import fitted_split
from spire_core.config.checks import require
from spire_core.config.partition import NATURAL
from spire_core.errors import DataError
from spire_core.partition.natural import HeldBack, natural_partition
from spire_core.partition.split import Partition, make_partition
from spire_core.privacy.guarantee import RoundsGuarantee, guarantee_of, rounds_guarantee


def partitioned(config: Config) -> tuple[ImageData, Partition]:
    """Return an experiment's data at their own size, and their partition.

    Raises DataError if a client would have too few images, ConfigError if a new client's privacy
    budget cannot be kept, or if a round has too few steps.
    """
    sizes = (config.federation.num_clients, config.federation.num_new_clients)
    settings = (config.partition, *sizes, config.seed, config.adapt.num_images)
    if config.partition.name == NATURAL:
        data = load_clients(config.data)
        assert data.clients is not None  # else an error
        partition = natural_partition(data.clients, *settings, held_back(data, config))
    else:
        data = load(config.data, "train")
        partition = make_partition(data.labels, *settings)
    shown = partition.shown  # if these are not all clients, all hold as many images
    if min(len(c.test) for c in (*shown.train_clients, *shown.new_clients)) < 2:
        raise DataError(
            "expected at least 2 test images per client, got fewer: raise partition.min_size or "
            "partition.test_fraction"
        )
    fewest = min(len(client.train) for client in shown.train_clients)
    is_one_step = config.federation.local_epochs == 1 and fewest <= config.client.batch_size
    require(
        not (is_one_step and config.method.alternates),
        "at least 2 steps of every client in a round with method.phases=alternate",
        f"1 of one with {fewest} images",
        "local layers take the first, so raise federation.local_epochs or federation.tau",
    )
    promise_to_clients(config)
    for client in partition.new_clients:  # each raises what is wrong with it
        guarantee_of(config.privacy.adapt, len(client.train), num_embs=config.num_client_embs)
        fitted_split(client, config.sets_aside, config.seed)
    return data, partition


def promise_to_clients(config: Config) -> RoundsGuarantee | None:
    """Return what the rounds promise to the clients, None without a budget.

    Raises ConfigError if the budget cannot be kept.
    """
    federation, privacy = config.federation, config.privacy
    return rounds_guarantee(
        privacy.rounds,
        federation.num_clients,
        federation.cohort_size,
        federation.num_rounds,
        privacy.noise_key is not None,
    )


def held_back(data: ImageData, config: Config) -> HeldBack:
    """Return which images the settings keep out of training."""
    masks = []
    for key in ("hidden", "hidden_from_new"):
        mask = np.zeros(len(data.labels), bool)
        for pattern in getattr(config.partition, key):
            found = fitting(pattern, data.labels, data.class_names, data.captions)
            require(
                bool(found.any()) or is_class(pattern, data.class_names),
                f"classes or patterns of captions in partition.{key}",
                f"{pattern!r}, which fits no image",
                "correct it",
            )
            mask |= found
        masks.append(mask)
    return HeldBack(*masks)

"""The data of an experiment and their split over clients; what cannot be is refused."""

import logging
from collections.abc import Sequence

import numpy as np

from pipeline.config.rules import fewest_steps
from pipeline.config.schema import Config
from pipeline.data.datasets import ImageData, fitting, is_class, load, load_clients
from spire_core.config.checks import require
from spire_core.config.partition import NATURAL, PartitionConfig
from spire_core.errors import ConfigError, DataError
from spire_core.federated.messages import RoundPlan
from spire_core.partition.natural import HeldBack, NaturalClients, natural_partition
from spire_core.partition.split import Partition, make_partition
from spire_core.privacy.guarantee import RoundsGuarantee, guarantee_of, rounds_guarantee

_log = logging.getLogger(__name__)


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
        _warn_of_fraction(data.clients, config.partition)
    else:
        data = load(config.data, "train")
        partition = make_partition(data.labels, *settings)
    shown = partition.shown  # if these are not all clients, all hold as many images
    if min(len(c.test) for c in (*shown.train_clients, *shown.new_clients)) < 2:
        raise DataError(
            "expected at least 2 test images per client, got fewer: raise partition.min_size or "
            "partition.test_fraction"
        )
    _check_steps(config, [len(client.train) for client in shown.train_clients])
    promise_to_clients(config)
    for num_images in sorted({len(client.train) for client in partition.new_clients}):
        guarantee_of(config.privacy.adapt, num_images)  # raises what is wrong with it
    if config.sets_aside and any(len(client.train) < 2 for client in partition.new_clients):
        raise DataError(
            "expected at least 2 training images of each new client with adapt.early_stopping or "
            "adapt.guidance, got fewer: raise adapt.num_images or the partition's sizes"
        )
    return data, partition


def _warn_of_fraction(clients: NaturalClients, partition: PartitionConfig) -> None:
    """Log a warning if a share of test images is set, and the data name these."""
    share = partition.test_fraction
    if clients.is_test is not None and share != PartitionConfig().test_fraction:
        _log.warning(
            "the data name their test images, so that partition.test_fraction=%g counts for "
            "clients that arrive later (spire adapt) alone",
            share,
        )


def _check_steps(config: Config, num_images: Sequence[int]) -> None:
    """Raise ConfigError if a round is too short for a second phase, or for a proximal term.

    `num_images`: of each client.
    """
    federation, smallest, size = config.federation, min(num_images), config.client.batch_size
    plan = RoundPlan(0, 1.0, True, 0, federation.tau, federation.local_epochs)
    most = plan.num_steps(max(num_images), size)
    require(
        most >= fewest_steps(config),
        f"at least {fewest_steps(config)} steps of a client in a round with client.prox_mu above 0",
        f"{most} of the largest client",
        "the first one has no gradient of it, so raise federation.local_epochs or set "
        "client.prox_mu=0",
    )
    steps = plan.num_steps(smallest, size)
    require(
        steps >= 2 or not config.method.alternates,
        "at least 2 steps of every client in a round with method.phases=alternate",
        f"{steps} of one with {smallest} images",
        "local layers take the first, so raise federation.local_epochs or federation.tau",
    )


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
    hidden, from_new = config.partition.hidden, config.partition.hidden_from_new
    masks = [
        np.any([np.zeros(len(data.labels), bool), *(_fits(data, p, key) for p in patterns)], axis=0)
        for key, patterns in (("hidden", hidden), ("hidden_from_new", from_new))
    ]
    return HeldBack(*masks)


def _fits(data: ImageData, pattern: str, key: str) -> np.ndarray:
    """Return which images (N,) are of a class, or have a caption that fits a pattern."""
    found = fitting(pattern, data.labels, data.class_names, data.captions)
    if not (found.any() or is_class(pattern, data.class_names)):
        raise ConfigError(
            f"expected classes or patterns of captions in partition.{key}, got {pattern!r}, which "
            "fits no image: correct it"
        )
    return found

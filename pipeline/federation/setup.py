"""The setup of a federation: the data, their partition over clients, and the model.

In a population of more than `MANY_CLIENTS`, no later step goes through every client. With an
independent partition no step here does either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.config.build import flattened
from pipeline.config.schema import Config
from pipeline.data.datasets import ImageData, load, load_clients
from pipeline.data.hidden import fitting, is_class
from pipeline.data.resize import checked_side, resized
from pipeline.federation.participants import MANY_CLIENTS, first_participants, public_cohort
from pipeline.federation.shown_captions import shown_captions
from spire_core.config.checks import require
from spire_core.config.partition import NATURAL
from spire_core.diffusion.process import Diffusion
from spire_core.errors import ConfigError, DataError
from spire_core.evaluation.extractors import NO_EXTRACTOR, auto_extractor, make_extractor
from spire_core.federated.messages import RoundPlan
from spire_core.network.flat_model import FlatModel
from spire_core.partition.natural import HeldBack, natural_partition
from spire_core.partition.split import Partition, class_mixture, make_partition
from spire_core.partition.styles import styled, styled_channels
from spire_core.pretrained.folder import open_backbone
from spire_core.privacy.guarantee import guarantee_of
from spire_core.privacy.rounds import RoundsGuarantee, rounds_guarantee

TINT_EXTRACTOR = "cifar10-cnn"  # the classifier of colour images that the package brings
# Groups of settings that a setup does not depend on, and what it reads of them all the same.
UNREAD = ("adapt.", "client.", "resources.", "server.", "tracking.")
READ = ("adapt.num_images", "adapt.early_stopping", "adapt.guidance", "adapt.val_fraction")
READ += ("client.batch_size",)
MIN_SCORED = 4  # test images of a client whose KID has a floor: two halves of two images


@dataclass(frozen=True)
class FederationSetup:
    """The constants of an experiment, known before the first round.

    `participants`: the clients that stand for all where a secret key draws cohorts.
    """

    config: Config
    data: ImageData
    partition: Partition
    extractor: str
    extractor_hash: str  # of its weights
    model: FlatModel
    tokens: np.ndarray | None = None  # captions: (N, L) positions in `model.words`, (N, D) vectors
    backbone_hash: str | None = None  # of the folder of a pre-trained model
    text_hash: str | None = None  # of a frozen sentence encoder
    participants: tuple[int, ...] | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes that identify the data, their partition, the extractor of the scores, a
        pre-trained model and a sentence encoder.
        """
        hashes = {
            "data_sha256": self.data.sha256,
            "partition_hash": self.partition.hash,
            "extractor_hash": self.extractor_hash,
        }
        more = {"backbone_sha256": self.backbone_hash, "text_sha256": self.text_hash}
        return hashes | {name: value for name, value in more.items() if value}

    @cached_property
    def images(self) -> np.ndarray:
        """The images (N, C, H, W), uint8, at the experiment's size and in their owners' styles."""
        images = resized(self.data.images, self.config.data.image_size)
        return styled(images, self.partition, self.config.partition.style, self.config.seed)

    @property
    def has_features(self) -> bool:
        """Whether there is an extractor, and so KID and all that comes of it."""
        return self.extractor != NO_EXTRACTOR

    @property
    def train_ids(self) -> range:
        return range(self.config.federation.num_clients)

    @property
    def new_ids(self) -> list[int]:
        first = self.config.federation.num_clients
        return list(range(first, first + self.config.federation.num_new_clients))

    @cached_property
    def representative_ids(self) -> list[int]:
        """The pre-training clients that stand for all: every client, or some of a large population.

        Those are the first clients that take part. With private rounds they are so in a population
        of any size: `participants`, if cohorts are secret.
        """
        if self.participants is not None:
            return list(self.participants)
        if len(self.train_ids) <= MANY_CLIENTS and not self.config.privacy.rounds.is_on:
            return list(self.train_ids)
        return first_participants(self.config, lambda round_: public_cohort(self.config, round_))

    @property
    def eval_ids(self) -> list[int]:
        """The pre-training clients of evaluations."""
        return self.representative_ids[: self.config.eval.num_clients]

    @property
    def splits_at_random(self) -> bool:
        """Whether held-out images are like training images, apart from chance.

        They are not where the data name them or where images are hidden, nor with text, where new
        clients draw for the captions of held-out images.
        """
        partition, clients = self.config.partition, self.data.clients
        is_hidden = bool(partition.hidden or partition.hidden_from_new)
        is_named = self.partition.names and clients is not None and clients.is_test is not None
        return not (is_hidden or is_named or self.tokens is not None)

    @cached_property
    def mixtures(self) -> Mapping[int, np.ndarray]:
        """Class mixture (K,) of the clients of evaluations and of all new clients."""
        splits = map(self.partition.split, self.eval_ids + self.new_ids)
        labels, num_classes = self.data.labels, len(self.data.class_names)
        return {
            s.client_id: class_mixture(labels, np.concatenate([s.train, s.test]), num_classes)
            for s in splits
        }


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
        partition = make_partition(data.labels, len(data.class_names), *settings)
    shown = partition.shown  # if these are not all clients, all hold as many images
    if min(len(c.test) for c in (*shown.train_clients, *shown.new_clients)) < 2:
        raise DataError(
            "expected at least 2 test images per client, got fewer: raise partition.min_size or "
            "partition.test_fraction"
        )
    _check_phases(config, min(len(client.train) for client in shown.train_clients))
    promise_to_clients(config)
    for num_images in sorted({len(client.train) for client in partition.new_clients}):
        guarantee_of(config.privacy.adapt, num_images)  # raises what is wrong with it
    if config.set_aside > 0 and any(len(client.train) < 2 for client in partition.new_clients):
        raise DataError(
            "expected at least 2 training images of each new client with adapt.early_stopping or "
            "adapt.guidance, got fewer: raise adapt.num_images or the partition's sizes"
        )
    return data, partition


def _check_phases(config: Config, smallest: int) -> None:
    """Raise ConfigError if a round ends before a client's second phase; `smallest`: its images."""
    federation, method = config.federation, config.method
    work = federation.straggler_work if federation.straggler_rate > 0 else 1.0
    plan = RoundPlan(0, 1.0, True, 0, federation.tau, federation.local_epochs, (), (0,), work)
    steps = plan.num_steps(0, smallest, config.client.batch_size)
    require(
        steps >= 2 or method.phases == "joint" or not method.record.has_local_layers,
        "at least 2 steps of every client in a round with method.phases=alternate",
        f"{steps} of one with {smallest} images" + " that falls behind" * (work < 1),
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


def prepare(config: Config) -> FederationSetup:
    """Return data, partition and model of an experiment; every mistake in them is raised here."""
    data, partition = partitioned(config)
    name = extractor_of(config)
    extractor = make_extractor(name, config.eval.extractor_weights)  # missing weights are raised
    channels, size, _ = image_shape(data, config)
    extractor.check_channels(channels)
    config.model.check_image_size(size)
    model = FlatModel(config.model, config.method, channels)
    model.net.check_image_size(size)
    backbone = config.model.backbone
    if backbone is not None:
        Diffusion.of(config.diffusion, "cpu", backbone)  # raises what is wrong with its schedule
    tokens, text_hash = shown_captions(data, config.model)
    backbone_hash = None if backbone is None else open_backbone(backbone).sha256
    fields = (name, extractor.weights_hash, model, tokens, backbone_hash, text_hash)
    setup = FederationSetup(config, data, partition, *fields)
    check_floors(setup)
    return setup


def image_shape(data: ImageData, config: Config) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of an experiment's images, before any of them is made.

    Raises ConfigError for a size or a style, DataError for images, that cannot be.
    """
    _, channels, height, width = data.images.shape
    size = checked_side(height, width, config.data.image_size)
    return styled_channels(channels, config.partition.style), size, size


def setup_key(config: Config) -> tuple[tuple[str, str], ...]:
    """Return what `prepare` reads of a configuration: equal keys have equal setups and mistakes."""
    settings = flattened(config.as_dict()).items()
    read = ((key, value) for key, value in settings if not key.startswith(UNREAD) or key in READ)
    return tuple((key, repr(value)) for key, value in read)


def extractor_of(config: Config) -> str:
    """Return the extractor's name; the classifier of a grey data set cannot see tints."""
    is_auto = config.eval.extractor == "auto"
    if is_auto and config.partition.style == "tint":
        return TINT_EXTRACTOR
    return auto_extractor(config.data.name, config.eval.extractor)


def check_floors(setup: FederationSetup) -> None:
    """Raise DataError if a client whose images are scored has too few test images."""
    if not setup.has_features:
        return
    for client_id in setup.eval_ids + setup.new_ids:
        num_images = len(setup.partition.split(client_id).test)
        if num_images < MIN_SCORED:
            raise DataError(
                f"expected at least {MIN_SCORED} test images of each client that is evaluated, got "
                f"{num_images} of client {client_id}: raise partition.min_size or "
                "partition.test_fraction"
            )

"""The setup of a federation: the data, their partition over clients, and the model.

In a population of more than `MANY_CLIENTS`, no later step goes through every client. With an
independent partition no step here does either.
"""

import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipeline.config.data import side
from pipeline.config.schema import Config
from pipeline.data.datasets import ImageData, fitting, is_class, load, load_clients
from pipeline.data.resize import resized
from pipeline.federation.rounds import promise_to_clients
from spire_core.adaptation.set_aside import fitted_split
from spire_core.config.checks import require
from spire_core.config.eval import HELDOUT, OTHER_METRICS
from spire_core.config.model import ModelConfig
from spire_core.config.partition import NATURAL
from spire_core.diffusion.process import Diffusion
from spire_core.diffusion.samplers import check_guided
from spire_core.errors import ConfigError, DataError
from spire_core.evaluation.extractors import NO_EXTRACTOR, auto_extractor, make_extractor
from spire_core.evaluation.reference_split import ReferenceSplit
from spire_core.federated.participation import choose_cohort, responding_clients
from spire_core.network.flat_model import FlatModel
from spire_core.network.pretrained import PretrainedNet
from spire_core.network.words import caption_tokens
from spire_core.partition.natural import HeldBack, natural_partition
from spire_core.partition.split import ClientSplit, Partition, class_mixture, make_partition
from spire_core.partition.styles import styled, styled_channels
from spire_core.pretrained.folder import open_backbone
from spire_core.pretrained.sentences import open_encoder
from spire_core.privacy.guarantee import guarantee_of

MANY_CLIENTS = 1000
NUM_REPRESENTATIVES = 100  # clients that stand for a larger population
TINT_EXTRACTOR = "cifar10-cnn"  # the classifier of colour images that the package brings
NUM_TRIED = 128  # random images for a metric of another package
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
    test_data: ImageData | None = None  # where scores compare with images of the test split

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes that identify the data, the model's parts and what scores compare with."""
        hashes = {
            "data_sha256": self.data.sha256,
            "partition_hash": self.partition.hash,
            "extractor_hash": self.extractor_hash,
            "backbone_sha256": self.backbone_hash,
            "text_sha256": self.text_hash,
            "reference_sha256": self.test_data and self.test_data.sha256,
        }
        return {name: value for name, value in hashes.items() if value is not None}

    @cached_property
    def images(self) -> np.ndarray:
        """The images (N, C, H, W), uint8, at the experiment's size and in their owners' styles."""
        images = resized(self.data.images, self.config.data.image_size)
        return styled(images, self.partition, self.config.partition.style, self.config.seed)

    @cached_property
    def reference(self) -> ReferenceSplit | None:
        """The test split that scores compare with; None where that is each client's held-out part.

        Its images have the experiment's size.
        """
        if (found := self.test_data) is None:
            return None
        return ReferenceSplit(resized(found.images, self.config.data.image_size), found.labels)

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
        return list(self.participants or public_representatives(self.config))

    @property
    def eval_ids(self) -> list[int]:
        """The pre-training clients of evaluations."""
        return self.representative_ids[: self.config.eval.num_clients]

    def label(self, client_id: int) -> str:
        """Return a client's name in tables and pictures: its own, or its id."""
        return self.partition.name_of(client_id) or f"client {client_id}"

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

    def reference_positions(self, client_id: int) -> np.ndarray:
        """Return which images (n,) of the data, or of a test split, a client is scored against."""
        if self.reference is None:
            return self.partition.split(client_id).test
        mixture = self.mixtures[client_id]
        return self.reference.positions_of(mixture, self.config.seed, client_id)

    def fitted_split(self, client_id: int) -> ClientSplit:
        """Return a client's split with the training images that its fit steps on alone."""
        sets_aside = self.config.sets_aside and self.config.is_new(client_id)
        return fitted_split(self.partition.split(client_id), sets_aside, self.config.seed)

    def fitted_classes(self, client_id: int) -> np.ndarray:
        """Return classes (n,) of the images that a client fits, then of its held-out ones."""
        split = self.fitted_split(client_id)
        return self.data.labels[np.concatenate([split.train, split.test])]

    @cached_property
    def mixtures(self) -> Mapping[int, np.ndarray]:
        """Class mixture (K,) of the clients of evaluations and of all new clients."""
        splits = map(self.partition.split, self.eval_ids + self.new_ids)
        labels, num_classes = self.data.labels, len(self.data.class_names)
        return {
            s.client_id: class_mixture(labels, np.concatenate([s.train, s.test]), num_classes)
            for s in splits
        }


def prepare(config: Config) -> FederationSetup:
    """Return data, partition and model of an experiment; every mistake in them is raised here."""
    data, partition = partitioned(config)
    name, backbone = extractor_of(config), config.model.backbone
    extractor = make_extractor(name, config.eval.extractor_weights)  # missing weights are raised
    channels = styled_channels(data.images.shape[1], config.partition.style)
    size = side(data.images.shape[-1], config.data.image_size)
    extractor.check_channels(channels)
    model = FlatModel(config.model, config.method, channels)
    if config.method.record.network is None:
        config.model.check_image_size(size)
    else:
        check_network(model, (channels, size, size))
    diffusion = Diffusion.of(config.diffusion, "cpu", backbone)
    if isinstance(model.net, PretrainedNet):
        model.net.check_images((channels, size, size), diffusion.codec)
    if config.is_guided and config.eval.guidance_interval is not None:
        check_guided(diffusion, config.eval.guidance_interval)
    tokens, text_hash = shown_captions(data, config.model)
    setup = FederationSetup(
        config=config,
        data=data,
        partition=partition,
        extractor=name,
        extractor_hash=extractor.weights_hash,
        model=model,
        tokens=tokens,
        backbone_hash=None if backbone is None else open_backbone(backbone).sha256,
        text_hash=text_hash,
        test_data=None if name == NO_EXTRACTOR else reference_data(config, data),
    )
    check_floors(setup)
    if config.eval.metrics:  # one that fails does so before the rounds
        noise, shape = torch.Generator().manual_seed(0), (NUM_TRIED, channels, size, size)
        drawn, real = torch.rand((2, *shape), generator=noise) * 2 - 1
        for name in config.eval.metrics:
            score(name, drawn, real)
    return setup


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


def check_network(model: FlatModel, shape: tuple[int, int, int]) -> None:
    """Raise ConfigError if a method's own network makes no images (C, H, W) of such images."""
    xt, emb = torch.zeros(2, *shape), torch.zeros(2, model.net.config.d_emb)
    shown = (emb,) if model.method.record.has_embedding else ()
    with torch.no_grad():
        found = model.net(xt, torch.zeros(2, dtype=torch.int64), *shown).shape
    expected, got = f"a network that returns {tuple(xt.shape)}", tuple(found)
    require(found == xt.shape, expected, got, f"mend that of method={model.method.name}")


def score(name: str, drawn: Tensor, real: Tensor) -> float:
    """Return what a metric of another package says of images drawn as a client, and its own.

    `drawn` (n, C, H, W) and `real` (m, C, H, W), in [-1, 1].
    """
    metric = OTHER_METRICS.find(name)
    assert metric is not None  # else the settings are refused
    return float(metric.value(drawn, real))


def setup_key(config: Config) -> Hashable:
    """Return what `prepare` reads of a configuration: equal keys have equal setups and mistakes."""
    client, adapt = config.client, config.adapt
    return (
        *(config.seed, config.data, config.partition, config.model, config.diffusion),
        *(config.method, config.federation, config.privacy, config.eval),
        *(client.batch_size, adapt.num_images, config.sets_aside, config.is_guided),
    )


def extractor_of(config: Config) -> str:
    """Return the extractor's name; the classifier of a grey data set cannot see tints."""
    is_auto = config.eval.extractor == "auto"
    if is_auto and config.partition.style == "tint":
        return TINT_EXTRACTOR
    return auto_extractor(config.data.name, config.eval.extractor)


def shown_captions(data: ImageData, model: ModelConfig) -> tuple[np.ndarray | None, str | None]:
    """Return captions as the network is shown them, and the hash of a frozen encoder.

    Both are None without text. Every mistake in the captions is raised here.
    """
    if model.text == "none":
        return None, None
    if data.captions is None:
        raise ConfigError(
            f"expected data with captions with model.text={model.text}, got {data.name} without: "
            "choose data=fonts or a data.metadata with captions, or set model.text=none"
        )
    if model.text == "words":
        return caption_tokens(data.captions, model.words), None
    encoder = open_encoder(model.text_encoder, model.text_dim)
    return encoder.vectors(data.captions), encoder.sha256


def reference_data(config: Config, data: ImageData) -> ImageData | None:
    """Return the test split that scores compare with, beside the training images `data`.

    No client holds it: partitions that deal images out deal those of the training split. None where
    scores compare with held-out images. DataError if the data have no such split.
    """
    if config.eval.reference == HELDOUT:
        return None
    settings = config.data
    if settings.name == "folder":  # the two splits have equally many channels
        settings = replace(settings, channels=data.images.shape[1])
    found = load(settings, "test")
    kinds = [(one.class_names, one.images.shape[1:]) for one in (data, found)]
    require(
        found.sha256 != data.sha256 and kinds[0] == kinds[1],
        f"a test split of {data.name} with other images of the same classes and shape",
        f"{len(found.class_names)} classes and {found.images.shape[1:]}, or the same images",
        f"correct the data, or set eval.reference={HELDOUT}",
    )
    return found


def check_floors(setup: FederationSetup) -> None:
    """Raise DataError if a client whose images are scored has too few to compare them with."""
    for client_id in setup.eval_ids + setup.new_ids if setup.has_features else ():
        if (num_images := len(setup.reference_positions(client_id))) < MIN_SCORED:
            raise DataError(
                f"expected at least {MIN_SCORED} real images for each client that is evaluated, "
                f"got {num_images} for client {client_id}: raise partition.min_size or "
                f"partition.test_fraction, or change eval.reference={setup.config.eval.reference}"
            )


# --- the clients that stand for a large population, or a private one ---


def has_secret_cohorts(config: Config) -> bool:
    """Whether cohorts are a part of all clients that follows from the noise key."""
    federation = config.federation
    return config.privacy.rounds.is_on and federation.cohort_size < federation.num_clients


def public_representatives(config: Config) -> list[int]:
    """Return the pre-training clients that stand for all where no secret key draws cohorts.

    These are all clients, or some of a large population or one with private rounds: the first that
    take part. Where a key draws the cohorts, they are those of as many that follow from the seed.
    """
    federation = config.federation
    if federation.num_clients <= MANY_CLIENTS and not config.privacy.rounds.is_on:
        return list(range(federation.num_clients))
    sizes = (federation.num_clients, federation.cohort_size, config.seed)
    return first_participants(config, lambda round_idx: choose_cohort(*sizes, round_idx))


def first_participants(config: Config, cohort_of: Callable[[int], list[int]]) -> list[int]:
    """Return the first clients that take part, at least `NUM_REPRESENTATIVES` if there are enough.

    `cohort_of`: the cohort of a round. Those that drop out by chance have not taken part.
    """
    federation, participants = config.federation, dict[int, None]()
    wanted = max(NUM_REPRESENTATIVES, config.eval.num_clients or 0)
    for round_idx in range(federation.num_rounds):
        if len(participants) >= wanted:
            break
        chances = (federation.drop_rate, config.seed, round_idx, config.privacy.rounds.is_on)
        responding = responding_clients(cohort_of(round_idx), *chances)
        participants |= dict.fromkeys(responding)
    return list(itertools.islice(participants, wanted))

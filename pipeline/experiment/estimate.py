"""The expected time of a run on this machine's CPUs, from a few seconds of measurements.

One optimizer step and one network evaluation are timed for every kind of network; the rest is
counting images. GPUs, waiting, other users of the machine and a pre-trained model's autoencoder are
not foreseen.
"""

from dataclasses import replace

import numpy as np
import torch

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.rounds import ClientTrainer, StepCosts, measure_step
from pipeline.config.federation import FederationConfig
from pipeline.config.schema import Config
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import load
from pipeline.data.resize import side
from pipeline.evaluation.scores import NUM_POPULATION_DRAWS
from pipeline.experiment.pretraining import evaluation_rounds
from pipeline.federation.participants import NUM_REPRESENTATIVES, all_stand_for_all
from pipeline.federation.partitioning import partitioned
from spire_core.config.client import ClientConfig
from spire_core.config.partition import NATURAL, PartitionConfig
from spire_core.federated.messages import steps_per_epoch
from spire_core.partition.split import ClientSplit
from spire_core.partition.styles import styled_channels
from spire_core.training.fit import to_float

START_S = 10.0  # a run's process, its tracking run, its first features of real images
MOST_IMAGES = 8  # in a timed batch: networks of GPU size take seconds for these on a CPU


def run_seconds(config: Config, num_cpus: float) -> float:
    """Return the seconds of a run whose actors have so many CPUs together.

    DataError if an image folder is missing.
    """
    costs = measure(kind_of(config))
    return START_S + (pretraining_s(config, costs) + adaptation_s(config, costs)) / num_cpus


def pretraining_s(config: Config, costs: StepCosts) -> float:
    """Return the seconds of the rounds and their evaluations on one CPU."""
    federation, method = config.federation, config.method.record
    if not method.is_federated:
        return 0.0
    num_steps = federation.tau or 0
    if federation.local_epochs is not None:
        per_epoch = steps_per_epoch(_images_per_client(config), config.client.batch_size)
        num_steps = federation.local_epochs * per_epoch
    per_round = federation.cohort_size * num_steps * config.client.batch_size
    num_looked_at = _num_looked_at(config)
    if config.draws_alike:
        num_looked_at = min(num_looked_at, NUM_POPULATION_DRAWS)
    num_evaluations = len(evaluation_rounds(federation.num_rounds, config.eval.every))
    training_s = federation.num_rounds * per_round * costs.train_s
    return training_s + num_evaluations * num_looked_at * _drawing_s(config, costs)


def adaptation_s(config: Config, costs: StepCosts) -> float:
    """Return the seconds of the new clients and of their evaluations on one CPU."""
    num_rows, num_looks = _new_client(config) if config.method.record.adapt_parts else (0, 0)
    one = num_rows * costs.train_s + (1 + num_looks) * _drawing_s(config, costs)
    one += sum(_drawing_s(config, costs, scale) for scale in config.adapt.guidance or ())
    if config.has_controls and config.method.record.is_personal:
        one += _drawing_s(config, costs)  # of the nearest client
    return config.federation.num_new_clients * one + _tuning_s(config, costs)


def _new_client(config: Config) -> tuple[int, int]:
    """Return how many rows a new client trains on, and its looks afterwards.

    A row is an image with one draw of noise.
    """
    settings, private = config.adapt, config.privacy.adapt
    num_images = settings.num_images or _images_per_client(config)
    if not private.is_on:
        num_rows = settings.epochs * settings.num_rows(num_images)
        return num_rows, -(-settings.epochs // settings.eval_every)
    is_once = private.mechanism == "one_release"
    batch = num_images if is_once else min(num_images, private.batch_size)
    num_looks = 1 if is_once else -(-private.steps // settings.eval_every)
    num_embs = config.num_client_embs  # an image is shown with each
    return private.steps * private.draws * batch * num_embs, num_looks


def _tuning_s(config: Config, costs: StepCosts) -> float:
    """Return the seconds in which pre-training clients fine-tune for a score; 0 if they do not."""
    if not config.scores_tuned:
        return 0.0
    num_rows = config.adapt.tune_epochs * config.adapt.num_rows(_images_per_client(config))
    return _num_looked_at(config) * (num_rows * costs.train_s + _drawing_s(config, costs))


def measure(config: Config) -> StepCosts:
    """Return the costs of a step and of a look on this machine, on random images."""
    channels, _, width = _known(config)
    channels = styled_channels(channels, config.partition.style)
    size, num_clients = side(width, config.data.image_size), config.federation.cohort_size
    shape = (num_clients * MOST_IMAGES, channels, size, size)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    held = np.arange(len(images)).reshape(num_clients, MOST_IMAGES)
    context = ModelContext.start(config, shape[1:])
    x = context.diffusion.encoded(to_float(torch.from_numpy(images[:MOST_IMAGES])))
    encode = None if context.diffusion.codec is None else lambda own: x[: len(own)]
    splits = [ClientSplit(i, own, own) for i, own in enumerate(held)]
    clients = [ClientData(split, images, encode=encode) for split in splits]
    group = config.resolved_client.groups(range(num_clients))[0]
    return measure_step(ClientTrainer(context), clients[: len(group)])


def kind_of(config: Config) -> Config:
    """Return the settings that set the costs; trials that differ in others are timed once."""
    num_clients = config.client.largest_group(config.federation.cohort_size)
    return Config(
        data=config.data,
        partition=PartitionConfig(style=config.partition.style),
        model=config.model,
        method=replace(config.method, phases="joint"),  # alternate ones need two steps
        client=ClientConfig(
            batch_size=MOST_IMAGES,
            precision=config.client.precision,
            engine=config.client.engine,
            group_size=num_clients,
        ),
        federation=FederationConfig(num_clients=num_clients, cohort_size=num_clients, tau=1),
    )


def _drawing_s(config: Config, costs: StepCosts, guidance: float | None = None) -> float:
    """Return the seconds of generating the images by which one client is scored.

    `guidance`: its scale, if not the run's.
    """
    scale = config.eval.guidance if guidance is None else guidance
    is_text_guided = config.model.text != "none" and config.text_guidance != 1
    num_looks = 1 + (scale != 1) + is_text_guided
    return config.eval.num_images * config.diffusion.sample_steps * num_looks * costs.look_s


def _num_looked_at(config: Config) -> int:
    """Return the number of pre-training clients that are scored."""
    num_clients = config.federation.num_clients
    most = num_clients if all_stand_for_all(config) else NUM_REPRESENTATIVES
    return min(config.eval.num_clients or most, num_clients)


def _images_per_client(config: Config) -> int:
    """Return the approximate number of images on which a client trains."""
    federation, partition = config.federation, config.partition
    if partition.name == NATURAL:
        sizes = partitioned(config)[1].train_sizes
        return max(1, round(sum(sizes) / len(sizes)))
    num_clients = federation.num_clients + federation.num_new_clients
    held = partition.client_size or _known(config)[1] // num_clients
    return max(1, round(held * (1 - partition.test_fraction)))


def _known(config: Config) -> tuple[int, int, int]:
    """Return the channels, the number and the side of the training images of the data."""
    spec = SPECS.get(config.data.name)
    if spec is None:
        images = load(config.data, "train").images
        return images.shape[1], len(images), images.shape[-1]
    return spec.image_shape[0], spec.num_train, spec.image_shape[-1]

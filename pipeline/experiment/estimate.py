"""The expected time of a run on this machine's CPUs, from a few seconds of measurements.

One optimizer step and one network evaluation are timed for every kind of network; the rest is
counting images. GPUs, waiting, other users of the machine and a pre-trained model's autoencoder are
not foreseen.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.clients.rounds import RoundWorker, StepCosts
from pipeline.config.federation import FederationConfig
from pipeline.config.schema import Config
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import load
from pipeline.data.resize import side
from pipeline.evaluation.controls import MAX_OLD
from pipeline.evaluation.scores import NUM_POPULATION_DRAWS
from pipeline.experiment.pretraining import evaluation_rounds
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.setup import public_representatives
from spire_core.config.client import ClientConfig
from spire_core.config.partition import PartitionConfig
from spire_core.evaluation.extractors import NO_EXTRACTOR
from spire_core.federated.messages import steps_per_epoch
from spire_core.partition.split import ClientSplit, Partition
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
    federation, batch_size, num_old = config.federation, config.client.batch_size, _num_old(config)
    if not config.method.record.is_federated:
        return 0.0
    num_steps = federation.tau or (federation.local_epochs or 0) * steps_per_epoch(
        _images_per_client(config), batch_size
    )
    num_rows = federation.num_rounds * federation.cohort_size * num_steps * batch_size
    num_drawn = min(num_old, NUM_POPULATION_DRAWS) if config.draws_alike else num_old
    num_draws = num_drawn * len(evaluation_rounds(federation.num_rounds, config.eval.every))
    num_draws += min(num_old, MAX_OLD) if config.has_controls else 0
    return num_rows * costs.train_s + num_draws * _drawing_s(config, costs)


def adaptation_s(config: Config, costs: StepCosts) -> float:
    """Return the seconds of the new clients and of their evaluations on one CPU.

    A row is an image with one draw of noise.
    """
    settings, private, record = config.adapt, config.privacy.adapt, config.method.record
    num_images = settings.num_images or _images_per_client(config)
    num_rows, num_steps = settings.epochs * settings.num_rows(num_images), settings.epochs
    if private.is_on:
        batch_size = min(num_images, private.batch_size)
        num_rows = private.steps * private.draws * batch_size * config.num_client_embs
        num_steps = private.steps
    num_draws = 1 + -(-num_steps // settings.eval_every)
    if not record.adapt_parts:
        num_rows, num_draws = 0, 1
    num_draws += len(settings.guidance or ())
    num_draws += config.has_controls and record.is_personal  # of the nearest client
    new_s = num_rows * costs.train_s + num_draws * _drawing_s(config, costs)
    tuned_s = 0.0
    if config.scores_tuned:
        num_rows = settings.tune_epochs * settings.num_rows(_images_per_client(config))
        tuned_s = num_rows * costs.train_s + _drawing_s(config, costs)
    return config.federation.num_new_clients * new_s + _num_old(config) * tuned_s


def measure(config: Config) -> StepCosts:
    """Return the costs of a step and of a look on this machine, on random images."""
    channels, _, width = _known(config)
    channels = styled_channels(channels, config.partition.style)
    size, num_clients = side(width, config.data.image_size), config.federation.cohort_size
    shape = (num_clients * MOST_IMAGES, channels, size, size)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    held = np.arange(len(images)).reshape(num_clients, MOST_IMAGES)
    partition = Partition(tuple(ClientSplit(i, own, own) for i, own in enumerate(held)), ())
    nowhere = Path(os.devnull)  # no client has a state in it
    worker = RoundWorker(WorkerSetup(config, {}, partition, NO_EXTRACTOR, nowhere), images)
    if worker.encode is not None:  # once for all clients
        x = worker.diffusion.encoded(to_float(torch.from_numpy(images[:MOST_IMAGES])))
        worker.encode = lambda own: x[: len(own)]
    return worker.measure_step()


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


def _drawing_s(config: Config, costs: StepCosts) -> float:
    """Return the seconds of generating the images by which one client is scored."""
    is_text_guided = config.model.text != "none" and config.text_guidance != 1
    num_looks = 1 + (config.eval.guidance != 1) + is_text_guided
    return config.eval.num_images * config.diffusion.sample_steps * num_looks * costs.look_s


def _num_old(config: Config) -> int:
    """Return the number of pre-training clients that are scored."""
    return len(public_representatives(config)[: config.eval.num_clients])


def _images_per_client(config: Config) -> int:
    """Return the approximate number of images on which a client trains."""
    federation, partition = config.federation, config.partition
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

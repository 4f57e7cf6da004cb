"""The expected time of a run on devices such as this machine's, from seconds of measurements.

One optimizer step and one network evaluation are timed for every kind of network: on one CPU or,
for actors with a GPU where this machine has one, on one GPU. The rest is counting images. Waiting,
other users of the machine and a pre-trained model's autoencoder are not foreseen.
"""

import functools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.clients.memory import peak_bytes, resident_bytes
from pipeline.clients.rounds import RoundWorker, StepCosts
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.config.data import side
from pipeline.config.federation import FederationConfig
from pipeline.config.schema import Config
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import load
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
from spire_core.training.heldout import NUM_DRAWS

START_S = 10.0  # a run's process, its tracking run, its first features of real images
MOST_IMAGES = 8  # in the first timed batch: networks of GPU size take seconds for these on a CPU
MOST_S = 3.0  # of a step whose whole batch is timed
NUM_STEPS = 3  # of a timed round, which share what is done once in it


def run_seconds(
    config: Config, plan: ActorPlan, has_rounds: bool = True, start_s: float = START_S
) -> float:
    """Return the seconds of a run with these actors; DataError if an image folder is missing.

    Without `has_rounds` it takes over another run's pre-training. `start_s`: before its first step.
    """
    costs = costs_of(config, plan)
    share = plan.num_gpus if costs.device == "cuda" else plan.num_cpus
    work = adaptation_s(config, costs) + (pretraining_s(config, costs) if has_rounds else 0.0)
    return start_s + work / (plan.num_actors * min(1.0, share))


def costs_of(config: Config, plan: ActorPlan) -> StepCosts:
    """Return the costs on a device of these actors, of which each kind is timed once."""
    return measure(*kind_of(config, plan.num_gpus > 0))


def pretraining_s(config: Config, costs: StepCosts) -> float:
    """Return the seconds of the clients' rounds and of their evaluations on one device."""
    federation, batch_size, num_old = config.federation, config.client.batch_size, _num_old(config)
    if not config.method.record.is_federated:
        return 0.0
    num_steps = federation.tau or (federation.local_epochs or 0) * steps_per_epoch(
        _images_per_client(config), batch_size
    )
    num_rows = federation.num_rounds * federation.cohort_size * num_steps * batch_size
    num_drawn = min(num_old, NUM_POPULATION_DRAWS) if config.draws_alike else num_old
    num_evaluations = len(evaluation_rounds(federation.num_rounds, config.eval.every))
    num_draws = num_drawn * num_evaluations
    num_draws += min(num_old, MAX_OLD) if config.has_controls else 0
    num_losses = num_evaluations * num_old * (3 if config.method.record.has_embedding else 1)
    num_looks = num_draws * _num_drawing(config) + num_losses * _num_heldout(config)
    return num_rows * costs.train_s + num_looks * costs.look_s


def adaptation_s(config: Config, costs: StepCosts) -> float:
    """Return the seconds of the new clients and of their evaluations on one device.

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
    num_losses = num_draws + (2 * NUM_DRAWS if config.has_controls and config.has_backbone else 0)
    num_looks = num_draws * _num_drawing(config) + num_losses * _num_heldout(config)
    new_s, tuned_s = num_rows * costs.train_s + num_looks * costs.look_s, 0.0
    if config.scores_tuned:
        num_rows = settings.tune_epochs * settings.num_rows(_images_per_client(config))
        num_looks = _num_drawing(config) + _num_heldout(config)
        tuned_s = num_rows * costs.train_s + num_looks * costs.look_s
    return config.federation.num_new_clients * new_s + _num_old(config) * tuned_s


@functools.cache
def measure(config: Config, device: str = "cpu") -> StepCosts:
    """Return the costs of a step and a look on a device of this machine, on random images.

    A whole batch is timed where that takes seconds; else a part of it stands for it.
    """
    before = resident_bytes()
    client = replace(config.client, batch_size=min(MOST_IMAGES, config.client.batch_size))
    costs = _measured(replace(config, client=client), device)
    num_images = config.client.batch_size * config.federation.cohort_size
    if costs.num_images < num_images and costs.train_s * num_images < MOST_S:
        costs = _measured(config, device, NUM_STEPS)
    if device == "cpu":  # the first step has left memory to the second
        costs = replace(costs, peak_bytes=max(0, peak_bytes() - before))
    return costs


def _measured(config: Config, device: str, num_steps: int = 1) -> StepCosts:
    channels, _, width = _known(config)
    channels = styled_channels(channels, config.partition.style)
    size, num_clients = side(width, config.data.image_size), config.federation.cohort_size
    num_images = config.client.batch_size
    shape = (num_clients * num_images, channels, size, size)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    held = np.arange(len(images)).reshape(num_clients, num_images)
    partition = Partition(tuple(ClientSplit(i, own, own) for i, own in enumerate(held)), ())
    nowhere = Path(os.devnull)  # no client has a state in it
    setup = WorkerSetup(config, {}, partition, NO_EXTRACTOR, nowhere)
    worker = RoundWorker(setup, images, device)
    if worker.encode is not None:  # once for all clients
        x = worker.diffusion.encoded(to_float(torch.from_numpy(images[:num_images])))
        worker.encode = lambda own: x[: len(own)]
    return worker.measure_step(num_steps)


def kind_of(config: Config, has_gpu: bool) -> tuple[Config, str]:
    """Return the settings that set the costs, and the device on which they are measured.

    Trials that differ in other settings are timed once.
    """
    is_on_gpu = has_gpu and config.resources.device == "auto" and torch.cuda.is_available()
    num_clients = config.client.largest_group(config.federation.cohort_size)
    kind = Config(
        data=config.data,
        partition=PartitionConfig(style=config.partition.style),
        model=config.model,
        method=replace(config.method, phases="joint"),  # alternate ones need two steps
        client=ClientConfig(
            batch_size=config.client.batch_size,
            precision=config.client.precision,
            opt_state=config.client.opt_state,
            engine=config.client.engine,
            group_size=num_clients,
        ),
        federation=FederationConfig(num_clients=num_clients, cohort_size=num_clients, tau=1),
    )
    return kind, "cuda" if is_on_gpu else "cpu"


def _num_drawing(config: Config) -> int:
    """Return the evaluations of the network for the images by which one client is scored."""
    is_text_guided = config.model.text != "none" and config.text_guidance != 1
    num_looks = 1 + (config.eval.guidance != 1) + is_text_guided
    return config.eval.num_images * config.diffusion.sample_steps * num_looks


def _num_heldout(config: Config) -> int:
    """Return the number of held-out images by whose loss a client is scored."""
    own, share = _images_per_client(config), config.partition.test_fraction
    return min(config.eval.num_loss_images, max(1, round(own * share / (1 - share))))


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

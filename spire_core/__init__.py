"""The algorithm: torch, numpy, and one library each for KID, weights and the threads of BLAS.

No Ray, MLflow, configuration files or printing.

Read in this order:
    methods     what distinguishes SPIRE from the methods it is compared with, as records
    unet, flat  the network, and the flat vector that its weights live in
    schedule, samplers   the diffusion process: noising, loss, generation
    training    gradient steps of one client; client: one client's round
    participation, faults, means, server   who answers, which updates are fit, how they become one
    grouped, group_training   several clients' separate networks computed as one
    adapt       a new client fits its own part; adapt_together: many at once, embeddings alone
    evaluate    images drawn as a client, and the loss on images it never saw
    kid, extractor, classifier, metrics, selftest   scores, the features compared, and their check
    partition, partition_schemes   who holds which images
    gmm, gmm_*  Gaussian mixtures, where all of this can be solved exactly (docs/theory.md)
    secure_sum  a mean that nobody sees the parts of; rng: every draw by its purpose; errors
"""

from spire_core.adapt import AdaptConfig, adapt_client
from spire_core.adapt_together import adapt_embeddings
from spire_core.client import Broadcast, ClientUpdate, RoundPlan, train_client
from spire_core.errors import SpireError
from spire_core.evaluate import EvalConfig, client_denoiser, draw, heldout_loss
from spire_core.flat import FlatModel, initial_weights
from spire_core.group_training import train_group
from spire_core.grouped import FlatGroup
from spire_core.kid import KidScore, kid, kid_floor
from spire_core.methods import METHODS, Method, MethodConfig
from spire_core.partition import Partition, PartitionConfig, make_partition
from spire_core.schedule import DiffusionConfig, make_schedule
from spire_core.server import ServerConfig, ServerState, aggregate
from spire_core.training import ClientConfig
from spire_core.unet import ModelConfig, UNet

__all__ = [
    "METHODS",
    "AdaptConfig",
    "Broadcast",
    "ClientConfig",
    "ClientUpdate",
    "DiffusionConfig",
    "EvalConfig",
    "FlatGroup",
    "FlatModel",
    "KidScore",
    "Method",
    "MethodConfig",
    "ModelConfig",
    "Partition",
    "PartitionConfig",
    "RoundPlan",
    "ServerConfig",
    "ServerState",
    "SpireError",
    "UNet",
    "adapt_client",
    "adapt_embeddings",
    "aggregate",
    "client_denoiser",
    "draw",
    "heldout_loss",
    "initial_weights",
    "kid",
    "kid_floor",
    "make_partition",
    "make_schedule",
    "train_client",
    "train_group",
]

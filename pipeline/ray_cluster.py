"""The Ray cluster around this process: its start, its resources and what its actors answer."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from spire_core.errors import ClusterError

LESS_MEMORY = "lower resources.num_actors, client.group_size, client.batch_size or model.width"
TOKEN_NOTICES = "ray._private.authentication.authentication_token_setup"


@contextlib.contextmanager
def cluster(num_cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Yield the resources of a Ray cluster.

    It is the one around this process, the one at RAY_ADDRESS, or a new local one. A local cluster
    that was started here is shut down at the end.
    """
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {} if address else {"include_dashboard": False, "num_cpus": num_cpus}
    logging.getLogger(TOKEN_NOTICES).setLevel(logging.ERROR)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=True,
            logging_level=logging.WARNING,
            configure_logging=False,
            **local,
        )
    except (RayError, RuntimeError, OSError, ValueError) as error:
        ray.shutdown()
        raise ClusterError(
            f"expected a Ray cluster at {address or 'this machine'}, got {type(error).__name__} "
            f"({str(error).splitlines()[0]}): check RAY_ADDRESS and RAY_AUTH_MODE, or start again"
        ) from error
    if callable(before):  # Ray's own handler would end the actors before a last checkpoint
        signal.signal(signal.SIGTERM, before)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def cluster_nodes() -> list[Mapping[str, float]]:
    """Return the resources of each living node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_resources() -> dict[str, float]:
    """Return the CPUs and GPUs of the cluster that nothing has taken."""
    return {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}


def is_in_actor() -> bool:
    """Return whether this process is a Ray actor itself, such as a trial of a sweep."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


def answer_of(refs: Any, limit_s: float | None = None) -> Any:
    """Return what `ray.get` returns; an error comes out as what it was when raised.

    After so many seconds without an answer, its actor counts as lost.
    """
    try:
        return ray.get(refs, timeout=limit_s)
    except RayTaskError as error:
        raise raised(error) from error
    except RayError as error:  # the actor, or with its node what it had returned
        raise lost(error) from error


def raised(error: RayTaskError) -> Exception:
    """Return what a task raised; what the user can do about is a sentence."""
    cause = error.cause
    if isinstance(cause, RayError):  # what it was given is lost
        return lost(cause)
    if isinstance(cause, torch.OutOfMemoryError):
        return ClusterError(
            f"expected memory of a GPU for every client actor, got {str(cause).splitlines()[0]!r}: "
            f"end what else uses the GPU, or {LESS_MEMORY}"
        )
    return cause


def lost(error: RayError) -> ClusterError:
    """Return what the loss of an actor, or of what it had returned, is to the user."""
    return ClusterError(
        "expected every actor to stay alive, got the loss of one "
        f"({str(error).splitlines()[0]}): look at its log under the Ray session folder; "
        "spire resume goes on from the last checkpoint"
    )

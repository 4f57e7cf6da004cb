"""Settings of how clients are simulated (`resources.*`)."""

from dataclasses import dataclass

from spire_core.errors import ConfigError

LEAST_GPU = 1e-4  # Ray counts in ten-thousandths


@dataclass(frozen=True)
class ResourcesConfig:
    """How the clients are simulated.

    `pool`: "ray" for actors, "local" for this process alone. `num_actors`: "auto" fills the
    cluster's CPUs or GPUs. `num_cpus` and `num_gpus` are per client actor; a GPU's share is
    bookkeeping, not a memory limit. `num_gpus` "auto" divides the cluster's GPUs by the actors, and
    is 0 where there are none. `device`: "auto" computes on a GPU where an actor has a share of one;
    "cpu" never does, and GPUs are for the bookkeeping alone.
    """

    pool: str = "ray"
    num_actors: int | str = "auto"
    num_cpus: float = 1.0
    num_gpus: float | str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.pool not in ("ray", "local"):
            raise ConfigError(
                f"expected resources.pool as ray or local, got {self.pool!r}: choose one"
            )
        if self.device not in ("auto", "cpu"):
            raise ConfigError(
                f"expected resources.device as auto or cpu, got {self.device!r}: choose one"
            )
        if isinstance(self.num_actors, str) and self.num_actors != "auto":
            raise ConfigError(
                f"expected resources.num_actors as a number or auto, got {self.num_actors!r}: "
                "change it"
            )
        if isinstance(self.num_actors, int) and self.num_actors < 1:
            raise ConfigError(
                f"expected resources.num_actors of at least 1, got {self.num_actors}: "
                "auto fills the cluster"
            )
        if isinstance(self.num_gpus, str) and self.num_gpus != "auto":
            raise ConfigError(
                f"expected resources.num_gpus as a number or auto, got {self.num_gpus!r}: change it"
            )
        shares = (self.num_cpus, 0.0 if isinstance(self.num_gpus, str) else self.num_gpus)
        if self.num_cpus <= 0 or min(shares) < 0:
            raise ConfigError(
                "expected resources.num_cpus above 0 and resources.num_gpus of at least 0, got "
                f"{shares}: raise them"
            )
        if 0 < shares[1] < LEAST_GPU:
            raise ConfigError(
                f"expected resources.num_gpus of 0 or at least 0.0001, got {shares[1]}: Ray counts "
                "in ten-thousandths"
            )
        if shares[1] > 1 and shares[1] % 1:
            raise ConfigError(
                f"expected resources.num_gpus as a share of one GPU or a whole number, got "
                f"{shares[1]:g}: change it"
            )

"""The configuration of one experiment, as records: what each group of settings means is with it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pipeline.datasets import DataConfig
from pipeline.identity import fingerprint, pretrain_fingerprint
from pipeline.limits import EXPERIMENT, check_ranges
from pipeline.resources import ResourcesConfig
from pipeline.runs import TrackingConfig
from spire_core.errors import ConfigError
from spire_core.methods import MethodConfig
from spire_core.model_config import DiffusionConfig, EvalConfig, ModelConfig
from spire_core.partition import PartitionConfig
from spire_core.training_config import AdaptConfig, ClientConfig, ServerConfig

ON_CLIENT_ERROR = ("retry", "drop", "fail")


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part and for how long; a round ends with one synchronization of the backbone.

    `tau`: optimizer steps between two synchronizations; `local_epochs`: the same span as passes
    over the client's data. Exactly one of the two is given. `on_client_error`: what becomes of a
    client that fails in a round or sends an update that cannot be used: "retry" its work, "drop" it
    from this round's average, or "fail". `client_timeout_s`: seconds after which a client counts as
    failed, None for never. `max_update_norm`: the most that a client may move the backbone in a
    round, as an L2 norm.

    A scenario of pre-training, drawn from the seed: `drop_rate` is the chance that a client of a
    cohort never answers in a round, `straggler_rate` the chance that it completes only the share
    `straggler_work` of its local steps (rounded, at least one; Li et al. 2020, FedProx).
    """

    num_clients: int = 24
    num_new_clients: int = 3
    cohort_size: int = 4
    num_rounds: int = 400
    tau: int | None = None
    local_epochs: int | None = None
    on_client_error: str = "retry"
    client_timeout_s: float | None = None
    max_update_norm: float | None = None
    drop_rate: float = 0.0
    straggler_rate: float = 0.0
    straggler_work: float = 0.5

    def __post_init__(self) -> None:
        if self.on_client_error not in ON_CLIENT_ERROR:
            raise ConfigError(
                f"expected federation.on_client_error as {', '.join(ON_CLIENT_ERROR)}, got "
                f"{self.on_client_error!r}: choose one of them"
            )
        for name in ("client_timeout_s", "max_update_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(
                    f"expected federation.{name} above 0, got {value}: null sets no limit"
                )
        if not 0.0 <= self.drop_rate < 1.0:
            raise ConfigError(
                f"expected federation.drop_rate in [0, 1), got {self.drop_rate}: somebody has to "
                "answer"
            )
        if not 0.0 <= self.straggler_rate <= 1.0 or not 0.0 < self.straggler_work <= 1.0:
            raise ConfigError(
                "expected federation.straggler_rate in [0, 1] and federation.straggler_work above "
                f"0 and at most 1, got {self.straggler_rate} and {self.straggler_work}: change them"
            )
        if self.num_clients < 1 or self.num_new_clients < 0 or self.num_rounds < 1:
            raise ConfigError(
                "expected federation.num_clients and federation.num_rounds of at least 1, got "
                f"{self.num_clients} and {self.num_rounds}: raise them"
            )
        if not 1 <= self.cohort_size <= self.num_clients:
            raise ConfigError(
                f"expected federation.cohort_size in 1..{self.num_clients}, got "
                f"{self.cohort_size}: a cohort is drawn from federation.num_clients"
            )
        if (self.tau is None) == (self.local_epochs is None):
            raise ConfigError(
                f"expected one of federation.tau and federation.local_epochs, got {self.tau} and "
                f"{self.local_epochs}: both say how long a round is, so give one of them"
            )
        if (self.tau or self.local_epochs or 0) < 1:
            raise ConfigError(
                f"expected federation.tau or federation.local_epochs of at least 1, got "
                f"{self.tau or self.local_epochs}: a round takes a step"
            )


@dataclass(frozen=True)
class Config:
    """One experiment, completely."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    federation: FederationConfig = field(default_factory=lambda: FederationConfig(tau=3))
    client: ClientConfig = field(default_factory=ClientConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_ranges(self, EXPERIMENT)
        alternates = self.method.record.has_local_layers and self.method.phases == "alternate"
        if alternates and self.federation.tau == 1:
            raise ConfigError(
                "expected federation.tau of at least 2 with method.phases=alternate, got 1: the "
                "local layers take the first half of a client's steps, and the shared ones need one"
            )
        if self.server.aggregation != "mean" and self.federation.cohort_size < 3:
            raise ConfigError(
                "expected federation.cohort_size of at least 3 with server.aggregation="
                f"{self.server.aggregation}, got {self.federation.cohort_size}: of two updates "
                "nobody can tell which one is wrong"
            )
        if not self.method.record.is_federated and self.federation.num_new_clients == 0:
            raise ConfigError(
                f"expected federation.num_new_clients of at least 1 with method={self.method.name},"
                " got 0: nobody would train"
            )
        asks_for_mean = self.method.record.has_embedding and self.adapt.init == "mean"
        if asks_for_mean and self.federation.num_clients < 2:
            raise ConfigError(
                "expected federation.num_clients of at least 2 with adapt.init=mean, got 1: the "
                "mean would be that client's embedding, which never leaves it"
            )
        if self.server.aggregation != "mean" and self.client.compression == "top_k":
            raise ConfigError(
                "expected server.aggregation=mean with client.compression=top_k, got "
                f"{self.server.aggregation}: most clients leave a coordinate out, so the middle "
                "one never moves it"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as plain nested dictionaries."""
        return dataclasses.asdict(self)

    @property
    def scores_tuned(self) -> bool:
        """Whether pre-training clients are scored after fine-tuning as well."""
        return self.method.record.can_tune and self.adapt.tune_epochs > 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that determines the result: not where it runs, is tracked or is stored."""
        return fingerprint(self)

    @property
    def pretrain_fingerprint(self) -> str:
        """SHA-256 of all that determines the pre-training."""
        return pretrain_fingerprint(self)

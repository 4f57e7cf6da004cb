"""Settings of who takes part in the rounds (`federation.*`)."""

from dataclasses import dataclass

from spire_core.errors import ConfigError

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

"""Settings of who takes part in the rounds (`federation.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields, require


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part and for how long; a round ends with one synchronization of the backbone.

    `tau`: optimizer steps between two synchronizations. `local_epochs`: the same length as passes
    over the client's data; exactly one of the two is given. `on_client_error`: if a client fails in
    a round or sends an unusable update, "retry" its work, "drop" it from this round's average, or
    "fail" the run. `client_timeout_s`: seconds after which a client counts as failed, None for
    never. `max_update_norm`: the largest change of the backbone by one client in a round, as an L2
    norm.

    Simulated failures of pre-training, drawn from the seed: `drop_rate` is the chance that a client
    of a cohort does not answer in a round, `straggler_rate` the chance that it completes only the
    share `straggler_work` of its local steps (rounded, at least one; Li et al. 2020, FedProx). The
    first steps of an embedding (`client.emb_first_steps`) are not among these.

    `secure_aggregation`: updates travel under masks that cancel in their sum, so that the server
    sees no single one (`spire_core.secure_sum.protocol`).
    """

    num_clients: Annotated[int, Range(1, 100_000_000)] = 24
    num_new_clients: Annotated[int, Range(0, 100_000)] = 3
    cohort_size: int = 4
    num_rounds: Annotated[int, Range(1, 10_000_000)] = 400
    tau: Annotated[int | None, Range(1, 10_000_000, advice="a round takes a step")] = None
    local_epochs: Annotated[int | None, Range(1, 1_000_000, advice="a round takes a step")] = None
    on_client_error: Annotated[str, Choice("retry", "drop", "fail")] = "retry"
    client_timeout_s: Annotated[
        float | None, Range(above=0, at_most=10_000_000, advice="null sets no limit")
    ] = None
    max_update_norm: Annotated[float | None, Range(above=0, advice="null sets no limit")] = None
    drop_rate: Annotated[float, Range(0, below=1, advice="somebody has to answer")] = 0.0
    straggler_rate: Annotated[float, Range(0, 1)] = 0.0
    straggler_work: Annotated[float, Range(above=0, at_most=1)] = 0.5
    secure_aggregation: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "federation")
        require(
            1 <= self.cohort_size <= self.num_clients,
            f"federation.cohort_size in 1..{self.num_clients}",
            self.cohort_size,
            "a cohort is drawn from federation.num_clients",
        )
        require(
            (self.tau is None) != (self.local_epochs is None),
            "one of federation.tau and federation.local_epochs",
            f"{self.tau} and {self.local_epochs}",
            "both say how long a round is, so give one of them",
        )
        if self.secure_aggregation:
            self._check_secure()

    def _check_secure(self) -> None:
        """Raise ConfigError for what needs single updates, which masks hide."""
        masked = "with federation.secure_aggregation=true"
        require(
            self.cohort_size >= 3,
            f"federation.cohort_size of at least 3 {masked}",
            self.cohort_size,
            "each of two clients could subtract its own update from the sum",
        )
        require(
            self.max_update_norm is None,
            f"federation.max_update_norm=null {masked}",
            self.max_update_norm,
            "the server cannot measure the norm of a masked update",
        )
        require(
            self.straggler_rate == 0.0,
            f"federation.straggler_rate=0 {masked}",
            self.straggler_rate,
            "partial work shows in single updates only, so simulate clients that are too late "
            "with federation.drop_rate",
        )

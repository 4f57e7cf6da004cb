"""Settings of who takes part in the rounds (`federation.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Range, check_fields, require


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part and for how long; a round ends with one synchronization of the backbone.

    `tau`: optimizer steps between two synchronizations. `local_epochs`: the same length as passes
    over the client's data; exactly one of the two is given. `client_timeout_s`: seconds after which
    a client counts as failed, None for never. `drop_rate`: the chance, drawn from the seed, that a
    client of a cohort does not answer in a round, a simulation.

    `secure_aggregation`: updates travel under masks that cancel in their sum, so that the server
    sees no single one (`spire_core.secure_sum.protocol`).
    """

    num_clients: Annotated[int, Range(1, 100_000_000)] = 24
    num_new_clients: Annotated[int, Range(0, 100_000)] = 3
    cohort_size: int = 4
    num_rounds: Annotated[int, Range(1, 10_000_000)] = 400
    tau: Annotated[int | None, Range(1, 10_000_000, advice="a round takes a step")] = None
    local_epochs: Annotated[int | None, Range(1, 1_000_000, advice="a round takes a step")] = None
    client_timeout_s: Annotated[
        float | None, Range(above=0, at_most=10_000_000, advice="null sets no limit")
    ] = None
    drop_rate: Annotated[float, Range(0, below=1, advice="somebody has to answer")] = 0.0
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
        require(
            self.cohort_size >= 3 or not self.secure_aggregation,
            "federation.cohort_size of at least 3 with federation.secure_aggregation=true",
            self.cohort_size,
            "each of two clients could subtract its own update from the sum",
        )

"""Settings of who takes part in the rounds (`federation.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Range, check_fields, require


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part and for how long; a round ends with one synchronization of the backbone.

    `tau`: optimizer steps between two synchronizations. `local_epochs`: the same length as passes
    over the client's data; exactly one of the two is given. `client_timeout_s`: seconds after which
    a client on an actor counts as failed and is computed again, None for never. `drop_rate`: the
    chance, drawn from the seed, that a client of a cohort does not answer in a round.

    `secure_aggregation`: updates travel under masks that cancel in their sum, so that the server
    sees no single one (`spire_core.secure_sum.protocol`).
    """

    num_clients: Annotated[int, Range(1, 100_000_000)] = 24
    num_new_clients: Annotated[int, Range(0, 100_000)] = 3
    cohort_size: Annotated[int, Range(1)] = 4
    num_rounds: Annotated[int, Range(1, 10_000_000)] = 400
    tau: Annotated[int | None, Range(1, 10_000_000)] = None
    local_epochs: Annotated[int | None, Range(1, 1_000_000)] = None
    client_timeout_s: Annotated[float | None, Range(above=0, at_most=10_000_000)] = None
    drop_rate: Annotated[float, Range(0, below=1)] = 0.0
    secure_aggregation: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "federation")
        expected = f"federation.cohort_size of at most federation.num_clients ({self.num_clients})"
        is_met = self.cohort_size <= self.num_clients
        require(is_met, expected, self.cohort_size, "a cohort is drawn from them")
        is_one = (self.tau is None) != (self.local_epochs is None)
        expected, got = "one of federation.tau and federation.local_epochs", "both or none"
        require(is_one, expected, got, "both say how long a round is")

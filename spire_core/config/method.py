"""Settings of the method (`method.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields
from spire_core.methods import BODY, EMB_PROJ, LOCAL, METHODS, MODULATION, Method


@dataclass(frozen=True)
class MethodConfig:
    """The method's name and, for `shared_rep`, its local layers and how the two parts take turns.

    `local_layers`: name prefixes of the layers that stay with the client; `up.last` is the last
    up-level. `phases`: "joint" trains both parts in every step; "alternate" spends the first half
    of a client's steps on the local part and the rest on the shared one (FedRep, Collins et al.
    2021, algorithm 1). `share_until`: the fraction of rounds in which the local layers are averaged
    like all others.
    """

    name: Annotated[str, Choice(*METHODS)] = "spire"
    local_layers: tuple[str, ...] = ("up.last", "norm_out", "conv_out")
    phases: Annotated[str, Choice("joint", "alternate")] = "joint"
    share_until: Annotated[
        float, Range(0, below=1, advice="at 1 no layer would ever become local")
    ] = 0.5

    def __post_init__(self) -> None:
        check_fields(self, "method")

    @property
    def record(self) -> Method:
        """The record that the loops read."""
        return METHODS[self.name]

    def part_of(self, parameter_name: str, last_up: int) -> str:
        """Return the part that a parameter belongs to; `last_up` numbers the last up-level."""
        if parameter_name.startswith("emb_proj."):
            return EMB_PROJ
        prefixes = tuple(p.replace("up.last", f"up.{last_up}") + "." for p in self.local_layers)
        if self.record.has_local_layers and (parameter_name + ".").startswith(prefixes):
            return LOCAL
        is_modulation = self.record.has_embedding and ".cond." in parameter_name
        return MODULATION if is_modulation else BODY

    def first_own_round(self, num_rounds: int) -> int:
        """Return the round from which on a pre-training client has a part of its own."""
        return 0 if self.record.has_embedding else self.num_shared_rounds(num_rounds)

    def num_shared_rounds(self, num_rounds: int) -> int:
        """Return the round from which on the local layers stay with their clients."""
        return round(self.share_until * num_rounds) if self.record.has_local_layers else num_rounds

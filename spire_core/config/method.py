"""Settings of the method (`method.*`)."""

from dataclasses import dataclass, replace
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_choice, check_fields, require
from spire_core.methods import BODY, DENOISER, EMB_PROJ, LOCAL, METHODS, Method
from spire_core.plugins import Plugins

ENTRANCES = ("time", "blocks", "tokens")
SHARE_UNTIL = 0.5  # of the rounds: until then local layers are averaged like all others
OTHER_METHODS = Plugins("method", METHODS)


def find_method(name: str) -> Method | None:
    """Return the method of this name, ours or a plug-in's; None if there is none."""
    if name in METHODS:
        return METHODS[name]
    plugin = OTHER_METHODS.find(name)
    return None if plugin is None else plugin.value


def method_named(name: str) -> Method:
    """Return the method of a name; ConfigError if there is none."""
    method = find_method(name)
    if method is None:
        check_choice("method.name", name, (*METHODS, *OTHER_METHODS.names()))
    assert method is not None
    return method


@dataclass(frozen=True)
class MethodConfig:
    """The method's name and, for `shared_rep`, its local layers and how the two parts take turns.

    `local_layers`: name prefixes of the layers that stay with the client; `up.last` is the last
    up-level. Half of the rounds average them like all others. `phases`: "joint" trains both parts
    in every step; "alternate" spends the first half of a client's steps on the local part and the
    rest on the shared one (FedRep, Collins et al. 2021, algorithm 1).

    Of an embedding in a pre-trained network: `entrance` names the layers that it moves (all that
    read the time conditioning, each block by itself, or the last token of the prompt). `projection`
    is the linear map to there: "learnt" in rounds from zero on, fixed at "random", or fixed at the
    "subspace" in which the gradients of generated images lie. Fixed, there are no rounds.

    Of an adapter: `rank` is LoRA's. `freeze` keeps a pre-trained network as it is, so that rounds
    average the adapter alone. With `share_adapter=false` the adapter stays with each client from
    its first round on (FedPer, Arivazhagan et al. 2019). With both there are no rounds.

    Of `time_split`: timesteps below `t0` are those of a client's own U-Net. Its width is that of
    the shared one times `own_width`, to the nearest multiple of 8.
    """

    name: str = "spire"
    local_layers: tuple[str, ...] = ("up.last", "norm_out", "conv_out")
    phases: Annotated[str, Choice("joint", "alternate")] = "joint"
    entrance: Annotated[str, Choice(*ENTRANCES)] = "time"
    projection: Annotated[str, Choice("learnt", "random", "subspace")] = "learnt"
    rank: Annotated[int, Range(1, 1024)] = 4
    freeze: bool = False
    share_adapter: bool = True
    t0: Annotated[int, Range(0)] = 250
    own_width: Annotated[float, Range(above=0, at_most=4)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self, "method")
        method = method_named(self.name)
        expected = f"method=retrofit with method.projection={self.projection}"
        advice = "methods that train the network train its entrance too"
        require(self.projection == "learnt" or method.is_frozen, expected, self.name, advice)
        advice = "it keeps all but an adapter as it is, so choose lora, bias or diffit"
        is_met = not self.freeze or method.adapts_layers
        require(is_met, "a method with an adapter with method.freeze=true", self.name, advice)

    @property
    def record(self) -> Method:
        """The record that the loops read: the method's, as these settings leave it."""
        method = method_named(self.name)
        if method.is_frozen:
            return replace(method, is_federated=self.projection == "learnt")
        if self.freeze:
            return replace(method, is_frozen=True, is_federated=self.share_adapter)
        if method.adapts_layers and not self.share_adapter:
            return replace(method, has_local_layers=True)
        return method

    @property
    def alternates(self) -> bool:
        """Whether local and shared layers take turns in a round."""
        return self.record.has_local_layers and self.phases == "alternate"

    def part_of(self, name: str, ndim: int, declared: str, last_up: int) -> str | None:
        """Return the part that a parameter belongs to, None if it is frozen.

        `declared` is the part that the network's module declares. `last_up` numbers the last
        up-level.
        """
        record = self.record
        if declared in (EMB_PROJ, LOCAL):
            return declared
        if record.trains_biases and ndim <= 1:
            return LOCAL
        if f"{name}.".startswith(self.local_prefixes(last_up)):
            return LOCAL
        if record.is_frozen:
            return None
        return declared if record.has_embedding else BODY

    def local_prefixes(self, last_up: int) -> tuple[str, ...]:
        """Return what the names of local parameters, and a dot, begin with."""
        layers = self.local_layers if self.record.names_layers else ()
        return tuple(f"{layer.replace('up.last', f'up.{last_up}')}." for layer in layers)

    def own_timesteps(self, num_timesteps: int) -> int | None:
        """Return how many timesteps a client's own network has, None without such a network."""
        return min(self.t0, num_timesteps) if self.record.adapter == DENOISER else None

    def first_own_round(self, num_rounds: int) -> int:
        """Return the round from which on a pre-training client has a part of its own."""
        return 0 if self.record.has_embedding else self.num_shared_rounds(num_rounds)

    def num_shared_rounds(self, num_rounds: int) -> int:
        """Return the round from which on the local layers stay with their clients."""
        if not self.record.has_local_layers:
            return num_rounds
        return round(SHARE_UNTIL * num_rounds) if self.record.names_layers else 0

"""The private state of a client: its own parts of the model, and its notes from round to round.

No message contains it. In a file it is a flat dictionary of named tensors; only this module knows
the names. S: length of the shared stretch of the weights; D_emb: numbers of an embedding.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spire_core.config.client import ClientConfig
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.flat_model import FlatWeights
from spire_core.rng import torch_generator
from spire_core.training.adam import PartMoments
from spire_core.training.several import Assignment, table_of

_RESIDUAL = "shared.residual"
_GUIDANCE = "guidance.scale"
_ASSIGNMENT = "assignment"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class PrivateState:
    """One client's own parts of the model by name, and what belongs to them.

    `moments`: Adam's moments of a part. `residual` (S,): the change of the shared weights that
    compression has not sent yet. `snapshots`: a new client's embedding (D_emb,) by the epoch after
    which it was kept. `guidance`: the scale that it has chosen for its drawings. `assignment`: of a
    client with several embeddings.
    """

    parts: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, PartMoments] = field(default_factory=dict)
    residual: Tensor | None = None
    snapshots: Mapping[int, Tensor] = field(default_factory=dict)
    guidance: float | None = None
    assignment: Assignment | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to keep."""
        return not self.to_tensors()

    @property
    def client_emb(self) -> Tensor | None:
        """The client's embedding (D_emb,), if its method has one."""
        return self.parts.get(CLIENT_EMB)

    @property
    def rows(self) -> Tensor | None:
        """Which embedding each of the client's images is shown with, (n,); None of a single one."""
        return None if self.assignment is None else self.assignment.rows

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the flat form: a part by its name, everything else with a dot in its name."""
        tensors = dict(self.parts)
        for part, moments in self.moments.items():
            tensors |= {f"{part}.{name}": getattr(moments, name) for name in _MOMENTS}
        if self.residual is not None:
            tensors[_RESIDUAL] = self.residual
        if self.guidance is not None:
            tensors[_GUIDANCE] = torch.tensor(self.guidance, dtype=torch.float64)
        if self.assignment is not None:
            named = dataclasses.asdict(self.assignment)
            tensors |= {f"{_ASSIGNMENT}.{name}": torch.as_tensor(v) for name, v in named.items()}
        return tensors | {f"{CLIENT_EMB}.{epoch}": emb for epoch, emb in self.snapshots.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "PrivateState":
        """Return the state whose flat form this is."""
        parts, moments, snapshots = {}, {}, {}
        assigned = dict[str, Tensor]()
        for name, tensor in tensors.items():
            part, _, suffix = name.rpartition(".")
            if not part:
                parts[name] = tensor
            elif part == _ASSIGNMENT:
                assigned[suffix] = tensor
            elif suffix.isdecimal():
                snapshots[int(suffix)] = tensor
            elif name not in (_RESIDUAL, _GUIDANCE):
                moments.setdefault(part, {})[suffix] = tensor
        of_parts = {part: PartMoments(**arrays) for part, arrays in moments.items()}
        scale = tensors.get(_GUIDANCE)
        guidance = None if scale is None else float(scale)
        assignment = None
        if assigned:
            counts = (int(assigned[name]) for name in ("num_looks", "num_visits"))
            assignment = Assignment(assigned["rows"], assigned["losses"], *counts)
        residual = tensors.get(_RESIDUAL)
        return cls(parts, of_parts, residual, snapshots, guidance, assignment)


def new_private_state(
    model: FlatWeights,
    config: ClientConfig,
    d_emb: int,
    seed: int,
    client_id: int,
    num_embs: int = 1,
) -> PrivateState:
    """Return a pre-training client's first state: its embeddings, drawn from N(0, std^2)."""
    if not model.method.record.has_embedding:
        return PrivateState()
    generator = torch_generator(seed, "client_emb", client_id)
    embs = torch.randn(num_embs, d_emb, generator=generator) * config.emb_init_std
    return PrivateState({CLIENT_EMB: table_of(embs)})


def load_client(model: FlatWeights, weights: Tensor, state: PrivateState) -> Tensor | None:
    """Load the backbone (P,) and a client's own layers into the model.

    Returns the client's embedding (D_emb,) on the model's device, or None if it has none.
    """
    model.load(weights)
    for part in NETWORK_PARTS:
        if part in state.parts:
            model.weights[model.layout.parts[part]] = state.parts[part].to(model.weights.device)
    return None if state.client_emb is None else state.client_emb.to(model.weights.device)

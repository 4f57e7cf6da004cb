"""The private state of a client: its own parts of the model, and its notes from round to round.

No message contains it. In a file it is a flat dictionary of named tensors; only this module knows
the names. S: length of the shared stretch of the weights; D_emb: numbers of an embedding.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from spire_core.config.client import ClientConfig
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.flat_model import FlatWeights
from spire_core.rng import torch_generator
from spire_core.training.adam import PartMoments
from spire_core.training.context import ClientContext
from spire_core.training.several import is_table, rows_by_cluster, table_of, with_weights


@dataclass(frozen=True)
class PrivateState:
    """One client's own parts of the model by name, and what belongs to them.

    `moments`: Adam's moments of a part. `residual` (S,): the change of the shared weights that
    compression has not sent yet. `snapshots`: a new client's embedding (D_emb,) by the epoch after
    which it was kept. `guidance`: the scale that it has chosen for its drawings. `rows` (n,): of a
    client with several embeddings, the one that each of its images is shown with.
    """

    parts: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, PartMoments] = field(default_factory=dict)
    residual: Tensor | None = None
    snapshots: Mapping[int, Tensor] = field(default_factory=dict)
    guidance: float | None = None
    rows: Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to keep."""
        return not self.to_tensors()

    @property
    def client_emb(self) -> Tensor | None:
        """The client's embedding (D_emb,), if its method has one."""
        return self.parts.get(CLIENT_EMB)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the flat form: a part by its name, everything else as group and name."""
        tensors = dict(self.parts)
        for part, moments in self.moments.items():
            tensors |= {f"{part}.{name}": tensor for name, tensor in vars(moments).items()}
        if self.residual is not None:
            tensors["shared.residual"] = self.residual
        if self.guidance is not None:
            tensors["guidance.scale"] = torch.tensor(self.guidance, dtype=torch.float64)
        if self.rows is not None:
            tensors["images.rows"] = self.rows
        return tensors | {f"after.{epoch}": emb for epoch, emb in self.snapshots.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "PrivateState":
        """Return the state whose flat form this is."""
        groups = defaultdict[str, dict[str, Tensor]](dict)
        for name, tensor in tensors.items():
            group, _, own_name = name.rpartition(".")
            groups[group][own_name] = tensor
        scale = groups.pop("guidance", {}).get("scale")
        return cls(
            parts=groups.pop("", {}),
            residual=groups.pop("shared", {}).get("residual"),
            snapshots={int(epoch): emb for epoch, emb in groups.pop("after", {}).items()},
            guidance=None if scale is None else float(scale),
            rows=groups.pop("images", {}).get("rows"),
            moments={part: PartMoments(**arrays) for part, arrays in groups.items()},
        )


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


def assigned(client: ClientContext, state: PrivateState) -> tuple[ClientContext, PrivateState]:
    """Return a client whose images have rows of its table, and its state with weights by these.

    The rows are those of the state, else those of the client, else clusters. A client of a single
    embedding, or of none, is returned as it is.
    """
    table, rows = state.client_emb, client.rows if state.rows is None else state.rows
    if table is None or not is_table(table):
        return client, state
    if rows is None:
        rows = rows_by_cluster(client, len(table))
    parts = {**state.parts, CLIENT_EMB: with_weights(table, rows)}
    return replace(client, rows=rows), replace(state, parts=parts, rows=rows)


def load_client(model: FlatWeights, weights: Tensor, state: PrivateState) -> Tensor | None:
    """Load the backbone (P,) and a client's own layers into the model.

    Returns the client's embedding (D_emb,) on the model's device, or None if it has none.
    """
    model.load(weights)
    for part in NETWORK_PARTS:
        if part in state.parts:
            model.weights[model.layout.parts[part]] = state.parts[part].to(model.weights.device)
    return None if state.client_emb is None else state.client_emb.to(model.weights.device)

"""Settings of local training in a round (`client.*`), and how clients are computed together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields, require
from spire_core.config.model import ModelConfig
from spire_core.methods import BODY, CLIENT_EMB, EMB_PROJ, LOCAL, MODULATION

WIDE = 64  # channels of the finest level
PRIVATE_MOMENTS = {  # by name, the shared parts whose Adam moments a client never sends
    "none": (),
    "emb_proj": (EMB_PROJ,),
    "conditioning": (MODULATION, EMB_PROJ),
}


@dataclass(frozen=True)
class ClientConfig:
    """How a client trains in pre-training.

    `lr`: the backbone's learning rate. `emb_lr`: the embedding's; the embedding's projection trains
    at `lr` times `emb_proj_lr_factor`. `emb_init_std`: the standard deviation from which embeddings
    are initialised. `emb_dropout`: the chance that an example is shown without its embedding
    (classifier-free guidance, Ho & Salimans 2022); it also makes zero a meaningful start for a new
    client. `text_dropout`: the same for captions, drawn independently.

    `opt_state`: the backbone's Adam moments start each round at zero ("reset"), or they travel and
    are averaged like the weights ("average"). `private_moments`: the layers whose moments do not
    travel with "average", but start each round at zero. Those of the embedding's projection, and of
    all layers that read the conditioning vector ("conditioning"), would show the client's embedding
    to the server. `prox_mu`: the factor mu of the proximal term mu/2 ||w - w_0||^2, which holds the
    shared weights near those that the server handed out (FedProx, Li et al. 2020).

    `engine`: "loop" trains one client after the other, "grouped" several as one computation, and
    "auto" takes the one that suits the network (`with_engine`). `group_size`: the cohort, in the
    order of client ids, is cut into groups of this size; None is `largest_group`. Float sums differ
    in their last bits from one size to another, so both settings are part of what determines a
    result.

    `compression`: the form in which a client sends its change of the weights
    (`spire_core.federated.compression`). `top_k_fraction`: the share of the coordinates that
    "top_k" sends.

    `micro_batch`: a step of a client that trains by itself takes at most so many images at once
    and adds their gradients up to those of the batch, to save memory; None takes the whole batch.

    `precision`: that of the network in training, in rounds and for a new client. With "bf16"
    convolutions and matrix products run in bfloat16 (`torch.autocast`), while weights, gradients,
    Adam and all evaluation stay float32. "tf32" lets a GPU round the factors of its matrix products
    to 10 bits, also in evaluation, as torch does in convolutions anyway. On a CPU it is float32.
    """

    batch_size: Annotated[int, Range(1, 100_000)] = 16
    micro_batch: Annotated[int | None, Range(1, 100_000)] = None
    lr: Annotated[float, Range(0, 1000)] = 2e-3
    emb_lr: Annotated[float, Range(0, 1000)] = 5e-2
    emb_proj_lr_factor: Annotated[float, Range(0, 1000)] = 3.0
    emb_init_std: Annotated[float, Range(0, 1000)] = 1.0
    emb_dropout: Annotated[float, Range(0, below=1)] = 0.0
    text_dropout: Annotated[float, Range(0, below=1)] = 0.0
    opt_state: Annotated[str, Choice("reset", "average")] = "average"
    private_moments: Annotated[str, Choice(*PRIVATE_MOMENTS)] = "conditioning"
    lr_schedule: Annotated[str, Choice("constant", "cosine")] = "cosine"
    warmup_rounds: Annotated[int, Range(0, 10_000_000)] = 10
    prox_mu: Annotated[float, Range(0, 1000)] = 0.0
    engine: Annotated[str, Choice("auto", "loop", "grouped")] = "auto"
    group_size: Annotated[int | None, Range(1)] = None
    compression: Annotated[str, Choice("none", "bf16", "int8", "top_k")] = "none"
    top_k_fraction: Annotated[float, Range(above=0, at_most=1)] = 0.05
    precision: Annotated[str, Choice("float32", "tf32", "bf16")] = "float32"

    def __post_init__(self) -> None:
        check_fields(self, "client")

    def groups(
        self, client_ids: Sequence[int], cohort_size: int | None = None
    ) -> list[tuple[int, ...]]:
        """Return a cohort cut into the groups that are computed together.

        `cohort_size`: that of an average cohort, where its size varies. ConfigError if the engine
        is "auto": it depends on the network (`with_engine`).
        """
        is_chosen = self.engine != "auto"
        require(is_chosen, "client.engine as grouped or loop", "auto", "choose it first")
        num_clients = cohort_size or len(client_ids)
        size = self.largest_group(num_clients) if self.engine == "grouped" else 1
        return [tuple(client_ids[i : i + size]) for i in range(0, len(client_ids), size)]

    def largest_group(self, num_clients: int) -> int:
        """Return how many of a round's clients are computed together at most.

        Where it is not set, 5, and more of a large cohort as long as that gives 20 groups or more,
        so that a few actors still have equal shares; 10 at most.
        """
        size = min(10, max(5, num_clients // 20)) if self.group_size is None else self.group_size
        return min(size, num_clients)

    def rates(self, scale: float) -> dict[str, float]:
        """Return the learning rate of each part; `scale` is the round's factor on all of them."""
        return {
            BODY: self.lr * scale,
            MODULATION: self.lr * scale,
            EMB_PROJ: self.lr * self.emb_proj_lr_factor * scale,
            LOCAL: self.lr * scale,
            CLIENT_EMB: self.emb_lr * scale,
        }

    def lr_scale(self, round_idx: int, num_rounds: int) -> float:
        """Return this round's factor on all rates: warm-up, then constant or half a cosine."""
        if round_idx < self.warmup_rounds:
            return (round_idx + 1) / self.warmup_rounds
        if self.lr_schedule == "constant":
            return 1.0
        done = (round_idx - self.warmup_rounds) / max(1, num_rounds - self.warmup_rounds)
        return 0.5 * (1 + math.cos(done * math.pi))


def with_engine(client: ClientConfig, model: ModelConfig) -> ClientConfig:
    """Return the settings with the engine that computes a cohort: "loop" or "grouped".

    It depends on the configuration alone, never on the machine: the same seed gives the same result
    everywhere. "auto" groups narrow networks; from a width of `WIDE` on, one client's operations
    are large enough by themselves (docs/performance.md). A network with dropout draws from torch's
    one stream, which a group would share, so that it is one client's.
    """
    if model.dropout > 0.0:
        return replace(client, engine="loop")
    if client.engine == "auto":
        return replace(client, engine="grouped" if model.width < WIDE else "loop")
    return client

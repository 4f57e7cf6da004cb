"""Personalisation methods as records: the parts that are shared, private, and trained anew.

A network's parameters fall into four parts. `body`, `modulation` and `emb_proj` are the backbone:
`emb_proj` is the embedding's entrance, and `modulation` are the layers that read the conditioning
vector with the embedding in it. Both are empty without an embedding. `local` are layers that stay
with each client, or a new client's adapter. The client embedding is a part outside the network.
Other code reads these records and never tests a method's name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from spire_core.config.model import ModelConfig
    from spire_core.federated.messages import Broadcast, ClientUpdate
    from spire_core.training.fit import ShownBatch

BODY, MODULATION, EMB_PROJ, LOCAL = "body", "modulation", "emb_proj", "local"
CLIENT_EMB = "client_emb"
DENOISER = "denoiser"  # an adapter: a network of a client's own, for images with little noise
NETWORK_PARTS = (BODY, MODULATION, EMB_PROJ, LOCAL)  # their order in the flat parameter vector
MAX_WEIGHT = 1 << 20  # of a client in the mean
ServerStep = Callable[["np.ndarray", "np.ndarray", "np.ndarray"], tuple["np.ndarray", "np.ndarray"]]


@dataclass(frozen=True)
class Method:
    """The properties of one method.

    `adapt_parts`: the parts that a new client trains. `adapt_lr`: their learning rate, unless the
    configuration sets one; `private_lr`: that of noisy steps. `is_federated`: whether the method
    has pre-training. `is_frozen`: the network's own numbers stay those of a pre-trained model. They
    belong to no part, and no message has them. `adapter`: the layers or numbers that make up
    `local` ("lora", "diffit", "bias" or `DENOISER`). They stay with each client if the method
    `has_local_layers`, and else rounds average them as all others; a new client trains them alone.

    Functions of other packages. `penalty(w, w_0)`: a term that rounds add to a client's objective,
    () or (K,) of the shared weights w (S,) or (K, S) and of the same w_0 (S,) as the server handed
    them out. `loss(net, client_emb, batch)`: a term (B,) of each image's loss, in rounds and for a
    new client, with its embedding (B, D_emb). `network(model, image_channels, has_embedding)`: a
    network in the place of the U-Net. `weight(update, broadcast)`: a client's weight in the mean, a
    whole number in 1..`MAX_WEIGHT`. `server_step(weights, mean, velocity)`: the next weights and
    velocity, all (S,) float64; the velocity is zero at first.
    """

    name: str
    adapt_parts: tuple[str, ...]
    adapt_lr: float
    private_lr: float
    has_embedding: bool = False
    has_local_layers: bool = False
    is_federated: bool = True
    is_frozen: bool = False
    adapter: str = ""
    penalty: "Callable[[Tensor, Tensor], Tensor] | None" = None
    loss: "Callable[[nn.Module, Tensor | None, ShownBatch], Tensor] | None" = None
    network: "Callable[[ModelConfig, int, bool], nn.Module] | None" = None
    weight: "Callable[[ClientUpdate, Broadcast], int] | None" = None
    server_step: "ServerStep | None" = None

    @property
    def changes_rounds(self) -> bool:
        """Whether rounds run a function of another package, which no setting describes."""
        own = (self.penalty, self.loss, self.network, self.weight, self.server_step)
        return any(function is not None for function in own)

    @property
    def is_personal(self) -> bool:
        """Whether each pre-training client has a part of its own, so that its samples are too."""
        return self.is_federated and (self.has_embedding or self.has_local_layers)

    @property
    def names_layers(self) -> bool:
        """Whether `local` are the layers that `method.local_layers` names."""
        return self.has_local_layers and not self.adapter

    @property
    def adapts_layers(self) -> bool:
        """Whether the adapter is a change of the network's own layers, which may be frozen."""
        return self.adapter not in ("", DENOISER)

    @property
    def trains_biases(self) -> bool:
        """Whether biases and normalisations of the network belong to the adapter."""
        return self.adapter in ("bias", "diffit")

    @property
    def adds_layers(self) -> bool:
        """Whether the adapter has numbers that the network itself lacks."""
        return self.adapter in ("lora", "diffit")

    @property
    def can_tune(self) -> bool:
        """Whether pre-training clients can train `adapt_parts` once more after the rounds."""
        return self.is_federated and bool(self.adapt_parts)

    @property
    def keeps_backbone(self) -> bool:
        """Whether the adaptation of a new client changes no part that existing clients share."""
        own = {CLIENT_EMB, LOCAL} if self.has_local_layers else {CLIENT_EMB}
        return set(self.adapt_parts) <= own


METHODS = {
    method.name: method
    for method in (
        Method("spire", (CLIENT_EMB,), adapt_lr=0.02, private_lr=0.05, has_embedding=True),
        Method("fedavg_ft", (BODY,), adapt_lr=3e-4, private_lr=3e-4),
        Method("shared_rep", (LOCAL,), adapt_lr=2e-3, private_lr=2e-3, has_local_layers=True),
        Method("fedavg", (), adapt_lr=0.0, private_lr=0.0),
        Method("local", (BODY,), adapt_lr=2e-3, private_lr=2e-3, is_federated=False),
        Method("retrofit", (CLIENT_EMB,), 0.02, 0.05, has_embedding=True, is_frozen=True),
        Method("lora", (LOCAL,), adapt_lr=2e-3, private_lr=2e-3, adapter="lora"),
        Method("bias", (LOCAL,), adapt_lr=2e-3, private_lr=2e-3, adapter="bias"),
        Method("diffit", (LOCAL,), adapt_lr=2e-3, private_lr=2e-3, adapter="diffit"),
        Method("time_split", (LOCAL,), 2e-3, 2e-3, has_local_layers=True, adapter=DENOISER),
    )
}

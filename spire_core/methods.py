"""Personalisation methods as records: which part is shared, kept, and trained on a new client.

A network's parameters fall into three parts: `body`, `emb_proj` (the embedding's entrance, also
backbone) and `local` (layers that stay with each client). The client embedding is a fourth part,
outside of the network. No code elsewhere asks for a method's name; it reads these records.
"""

from dataclasses import dataclass

BODY, EMB_PROJ, LOCAL, CLIENT_EMB = "body", "emb_proj", "local", "client_emb"
NETWORK_PARTS = (BODY, EMB_PROJ, LOCAL)  # their order in the flat parameter vector


@dataclass(frozen=True)
class Method:
    """What distinguishes one method from another.

    `adapt_parts`: parts that a new client trains. `adapt_lr`: the rate it trains them with unless
    the configuration says otherwise. `is_federated`: whether there is any pre-training.
    """

    name: str
    adapt_parts: tuple[str, ...]
    adapt_lr: float
    has_embedding: bool = False
    has_local_layers: bool = False
    is_federated: bool = True

    @property
    def is_personal(self) -> bool:
        """Whether each pre-training client has a part of its own, so that its samples differ."""
        return self.has_embedding or self.has_local_layers

    @property
    def can_tune(self) -> bool:
        """Whether pre-training clients own nothing, but could fine-tune what new clients train."""
        return self.is_federated and not self.is_personal and bool(self.adapt_parts)

    @property
    def keeps_backbone(self) -> bool:
        """Whether adapting a new client leaves untouched all that existing clients use."""
        return not {BODY, EMB_PROJ} & set(self.adapt_parts)


METHODS = {
    method.name: method
    for method in (
        Method("spire", (CLIENT_EMB,), adapt_lr=0.02, has_embedding=True),
        Method("fedavg_ft", (BODY,), adapt_lr=3e-4),
        Method("shared_rep", (LOCAL,), adapt_lr=2e-3, has_local_layers=True),
        Method("fedavg", (), adapt_lr=0.0),
        Method("local", (BODY,), adapt_lr=2e-3, is_federated=False),
    )
}

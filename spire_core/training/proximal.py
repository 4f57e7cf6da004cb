"""The pull to given weights: mu/2 ||w - w_0||^2 in a client's objective (Li et al. 2020, eq. 2).

In a round (FedProx), w are the weights that a client shares, and w_0 the same weights as the server
handed them out. In the fit of a new client, w are the parts that it trains, and w_0 the backbone.
P: length of the flat weight vector; S <= P: length of the stretch that is pulled.
"""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from spire_core.network.flat_model import Layout


@dataclass(frozen=True, eq=False)
class ProximalTerm:
    """The factor `mu`, and the weights w_0 (S,) in `anchor`."""

    mu: float
    anchor: Tensor

    def add_gradient(
        self, weights: Tensor, grads: Tensor, layout: Layout, parts: Collection[str]
    ) -> None:
        """Add mu (w - w_0) to the gradients of those of the parts that are pulled, in place.

        `weights` and `grads` (..., P) may be those of several clients.
        """
        for part, at in layout.parts.items():
            if part in parts and at.stop <= self.anchor.numel():
                grads[..., at].add_(weights[..., at] - self.anchor[at], alpha=self.mu)

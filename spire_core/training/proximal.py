"""The proximal term of FedProx: mu/2 ||w - w_0||^2 in a client's objective (Li et al. 2020, eq. 2).

w: the weights that a client shares in a round; w_0: the same weights as the server handed them out.
P: length of the flat weight vector; S <= P: length of its shared stretch.
"""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from spire_core.network.flat_model import Layout


@dataclass(frozen=True, eq=False)
class ProximalTerm:
    """The factor `mu`, and the broadcast weights w_0 (S,) in `anchor`."""

    mu: float
    anchor: Tensor

    def add_gradient(
        self, weights: Tensor, grads: Tensor, layout: Layout, parts: Collection[str]
    ) -> None:
        """Add mu (w - w_0) to the gradients of those of the parts that are shared, in place.

        `weights` and `grads` (..., P) may be those of several clients.
        """
        for part, at in layout.parts.items():
            if part in parts and at.stop <= self.anchor.numel():
                grads[..., at].add_(weights[..., at] - self.anchor[at], alpha=self.mu)

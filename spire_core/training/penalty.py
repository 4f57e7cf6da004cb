"""A method's own term in a client's objective, differentiated by torch.

w: the weights that a client shares in a round; w_0: the same weights as the server handed them out.
P: length of the flat weight vector; S <= P: length of its shared stretch; K: clients in a group.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from spire_core.network.flat_model import Layout


@dataclass(frozen=True, eq=False)
class Penalty:
    """The function `term(w, w_0)`, and the broadcast weights w_0 (S,) in `anchor`."""

    term: Callable[[Tensor, Tensor], Tensor]
    anchor: Tensor

    def add_gradient(
        self, weights: Tensor, grads: Tensor, layout: Layout, parts: Collection[str]
    ) -> None:
        """Add the term's gradient to the gradients of those of the parts that are shared, in place.

        `weights` and `grads` (..., P) may be those of several clients.
        """
        size = self.anchor.numel()
        shared = weights[..., :size].detach().clone().requires_grad_()
        with torch.enable_grad():
            [gradient] = torch.autograd.grad(self.term(shared, self.anchor).sum(), shared)
        for part, at in layout.parts.items():
            if part in parts and at.stop <= size:
                grads[..., at].add_(gradient[..., at])

"""Adam over the parts of one client (Kingma and Ba 2015), as torch's fused kernel computes it.

`torch.optim.Adam` computes the same, but its constructor imports torch's compiler: 1.5 s a process.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class PartMoments:
    """Adam's running state of one part: first and second moment (n,) and the steps taken."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor

    @classmethod
    def fresh(cls, like: Tensor) -> "PartMoments":
        return cls(torch.zeros_like(like), torch.zeros_like(like), torch.zeros(()))

    def to(self, device: torch.device | str) -> "PartMoments":
        """Return these moments on a device; where they are there already, the same tensors."""
        return PartMoments(*(t.to(device) for t in (self.exp_avg, self.exp_avg_sq, self.step)))

    def copied_to(self, device: torch.device) -> "PartMoments":
        """Return copies, which an optimizer may change."""
        tensors = (self.exp_avg, self.exp_avg_sq, self.step)
        return PartMoments(*(tensor.to(device, copy=True) for tensor in tensors))


class Adam:
    """Steps the given parts in place, each at its own rate, continuing from the given moments.

    `moments` holds the optimizer's own tensors. A part appears there if its moments were given, or
    after its first step.
    """

    def __init__(
        self,
        leaves: Mapping[str, nn.Parameter],
        rates: Mapping[str, float],
        moments: Mapping[str, PartMoments],
    ) -> None:
        self.leaves = {part: leaf for part, leaf in leaves.items() if leaf.numel()}
        self.rates = rates
        self.moments = {
            part: moments[part].copied_to(leaf.device)
            for part, leaf in self.leaves.items()
            if part in moments
        }

    def zero_grad(self) -> None:
        """Set the gradients of all parts to zero, in place."""
        for leaf in self.leaves.values():
            if leaf.grad is not None:
                leaf.grad.zero_()

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Take one step of Adam (Kingma & Ba 2015) in every part that has a gradient.

        `scale`: a factor on the rates of this step.
        """
        for part, leaf in self.leaves.items():
            if leaf.grad is None:
                continue
            if part not in self.moments:
                self.moments[part] = PartMoments.fresh(leaf).copied_to(leaf.device)
            state = self.moments[part]
            adam(
                [leaf],
                [leaf.grad],
                [state.exp_avg],
                [state.exp_avg_sq],
                [],
                [state.step],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=self.rates[part] * scale,
                weight_decay=0.0,
                eps=EPS,
                maximize=False,
            )

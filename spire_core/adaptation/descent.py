"""A new client's steps: Adam at a rate that may decay, and the mean of its last iterates."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from spire_core.config.adapt import AdaptConfig
from spire_core.federated.messages import steps_per_epoch
from spire_core.training.adam import Adam
from spire_core.training.context import ClientContext


class Descent:
    """Steps the parts of one new client, and averages them over its last steps.

    mean_k = mean_{k-1} + (iterate_k - mean_{k-1}) / k over the steps of the average, k from 1 on.
    """

    def __init__(
        self,
        leaves: Mapping[str, nn.Parameter],
        lr: float,
        config: AdaptConfig,
        client: ClientContext,
    ) -> None:
        """Take the parts that train, and the client with its training images alone."""
        self._optimizer = Adam(leaves, dict.fromkeys(leaves, lr), {})
        self._num_steps = config.epochs * steps_per_epoch(len(client.images), config.batch_size)
        self._first_averaged = self._num_steps - config.num_averaged(self._num_steps)
        self._config, self._num_taken = config, 0
        self._means: dict[str, Tensor] = {}

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """The parts that train."""
        return self._optimizer.leaves

    def zero_grad(self) -> None:
        """Set the gradients of all parts to zero, in place."""
        self._optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Take one step at the rate that is its turn, and average its iterate if it is a last."""
        self._optimizer.step(self._config.lr_scale(self._num_taken, self._num_steps))
        self._num_taken += 1
        num_averaged = self._num_taken - self._first_averaged
        if num_averaged < 1:
            return
        for part, leaf in self.leaves.items():
            if part in self._means:
                self._means[part].lerp_(leaf, 1 / num_averaged)
            else:
                self._means[part] = leaf.detach().clone()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the means into the iterates' place for a while.

        Before the first step that is averaged, the iterates stay.
        """
        iterates = {part: self.leaves[part].detach().clone() for part in self._means}
        self._put(self._means)
        try:
            yield
        finally:
            self._put(iterates)

    @torch.no_grad()
    def _put(self, parts: Mapping[str, Tensor]) -> None:
        for part, value in parts.items():
            self.leaves[part].copy_(value)

"""The look at a new client that fits alone, between its epochs and once its fit is over."""

import time

from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.drawing import Scale
from pipeline.clients.evaluation import ClientEvaluator, Observation
from pipeline.clients.guidance import CHOICE, choose_guidance
from pipeline.federation.messages import GeneratedSamples
from spire_core.adaptation.adapt import Adapted
from spire_core.config.adapt import AdaptConfig
from spire_core.federated.private_state import load_client
from spire_core.network.flat_model import FlatModel


class Observer:
    """Scores a new client between its epochs; keeps its first samples (before adaptation).

    `spent_s`: the seconds that it has taken so far.
    """

    def __init__(
        self,
        evaluator: ClientEvaluator,
        client: ClientData,
        reference: FlatModel | None,
        pooled: Tensor,
    ) -> None:
        self.evaluator, self.client = evaluator, client
        self.reference, self.pooled = reference, pooled
        self.first: GeneratedSamples
        self.last: Observation
        self.last_epoch, self.spent_s = -1, 0.0
        self.heldout: dict[int, Tensor] = {}

    def __call__(self, epoch: int, model: FlatModel, emb: Tensor | None) -> dict[str, float]:
        """Observe an epoch and remember it; return its scores."""
        began = time.monotonic()
        self.last, self.last_epoch = self._observe(None if emb is None else emb.detach()), epoch
        self.heldout[epoch] = self.last.heldout
        if epoch == 0:
            self.first = self.last.samples
        self.spent_s += time.monotonic() - began
        return self.last.scores

    def kept(
        self, adapted: Adapted, backbone: Tensor, settings: AdaptConfig
    ) -> tuple[Observation, Scale]:
        """Return the observation of the kept epoch and the guidance that the client has chosen.

        The observation is made anew unless it was the last one, as always without early stopping,
        and without such a choice.
        """
        if settings.guidance is None and self.last_epoch == adapted.kept_epoch:
            return self.last, None
        emb = load_client(self.evaluator.context.model, backbone, adapted.state)
        to_choose = (self.evaluator, [self.client], settings)
        [scale] = choose_guidance(
            *to_choose,
            lambda own, one: [self.evaluator.generate(own[0], emb, self.reference, one, CHOICE)],
        )
        return self._observe(emb, scale), scale

    def _observe(self, emb: Tensor | None, scale: Scale = None) -> Observation:
        """Generate images as the client, with the network's present weights, and score them."""
        images = self.evaluator.generate(self.client, emb, self.reference, scale)
        return self.evaluator.observe(self.client, images, emb, self.pooled)

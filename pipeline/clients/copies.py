"""Whether images that stand for a new client are copies of its training images, as numbers."""

from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.evaluation import ClientEvaluator
from pipeline.federation.messages import GeneratedSamples
from spire_core.evaluation.feature_cache import cached_features
from spire_core.evaluation.likelihood import fld_gap
from spire_core.evaluation.memorisation import Neighbours, neighbours
from spire_core.training.fit import to_float


def signs_of_copies(
    evaluator: ClientEvaluator, client: ClientData, images: Tensor, samples: GeneratedSamples
) -> tuple[Neighbours, float | None]:
    """Return how images (n, C, H, W) lie among all training and held-out images, and `fld_gap`.

    `samples` are theirs. The gap is None without `eval.controls`.
    """
    train = to_float(client.train_images())
    near = neighbours(images, train, to_float(client.test_images()))
    if not evaluator.context.config.has_controls:
        return near, None
    features = cached_features(evaluator.extractor, train, evaluator.cache)
    return near, fld_gap(samples.features, features, evaluator.real_features(client))

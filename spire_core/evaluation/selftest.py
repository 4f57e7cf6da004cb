"""A check, on a given data set, that an extractor and KID distinguish real images from others.

Letters: N images, C channels, H x W pixels, D features.
"""

import torch
from torch import Tensor

from spire_core.evaluation.extractors import Extractor
from spire_core.evaluation.kid import kid, kid_floor
from spire_core.rng import numpy_generator, torch_generator

MIN_ACCURACY = 0.5  # of the extractor's classes on real images: chance is 0.1


def metric_selftest(
    extractor: Extractor, real_images: Tensor, labels: Tensor, seed: int = 0
) -> dict[str, float | bool | None]:
    """Return KIDs whose order is known in advance, and whether they are in that order.

    The reference is one random half of the images (N, C, H, W) in [-1, 1] with labels (N,). It is
    compared with the other half ("real_kid", about the floor) and with uniform noise ("noise_kid").
    Without the images of one class, it is compared with that class alone ("wrong_class_kid"). The
    keys "real_ok", "noise_ok", "wrong_class_ok" and "accuracy_ok" are the verdicts, "ok" is their
    conjunction. "accuracy" is None for an extractor without classes.
    """
    features = extractor.features(real_images)
    order = torch.from_numpy(numpy_generator(seed, "selftest").permutation(len(features)))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    noise = torch.rand(real_images[second].shape, generator=torch_generator(seed, "selftest_noise"))
    wrong = int(labels.mode().values)
    others, alone = first[labels[first] != wrong], second[labels[second] == wrong]
    floor = kid_floor(features, seed=seed)
    found = {
        "real_kid": kid(features[first], features[second], seed=seed).mean,
        "noise_kid": kid(features[first], extractor.features(2 * noise - 1), seed=seed).mean,
        "wrong_class_kid": kid(features[others], features[alone], seed=seed).mean,
    }
    predicted = extractor.class_predictions(real_images)
    accuracy = None if predicted is None else float((predicted == labels).double().mean())
    limit = floor.mean + 5 * floor.std
    verdicts = {
        "real_ok": found["real_kid"] < limit,
        "noise_ok": found["noise_kid"] > limit,
        "wrong_class_ok": found["wrong_class_kid"] > limit,
        "accuracy_ok": accuracy is None or accuracy > MIN_ACCURACY,
    }
    scores = {"floor": floor.mean, "floor_std": floor.std, **found, "accuracy": accuracy}
    return {**scores, **verdicts, "ok": all(verdicts.values())}

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
    features, predicted = extractor.features(real_images), extractor.class_predictions(real_images)
    order = torch.from_numpy(numpy_generator(seed, "selftest").permutation(len(features)))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    noise = torch.rand(real_images[second].shape, generator=torch_generator(seed, "selftest_noise"))
    wrong = labels == labels.mode().values
    floor = kid_floor(features, seed=seed)
    limit = floor.mean + 5 * floor.std
    pairs = {
        "real": (features[first], features[second]),
        "noise": (features[first], extractor.features(2 * noise - 1)),
        "wrong_class": (features[first[~wrong[first]]], features[second[wrong[second]]]),
    }
    kids = {name: kid(*pair, seed=seed).mean for name, pair in pairs.items()}
    accuracy = None if predicted is None else float((predicted == labels).double().mean())
    verdicts = {"real_ok": kids["real"] < limit, "noise_ok": kids["noise"] > limit}
    verdicts |= {"wrong_class_ok": kids["wrong_class"] > limit}
    verdicts |= {"accuracy_ok": accuracy is None or accuracy > MIN_ACCURACY}
    scores = {"floor": floor.mean, "floor_std": floor.std, "accuracy": accuracy}
    scores |= {f"{name}_kid": found for name, found in kids.items()}
    return {**scores, **verdicts, "ok": all(verdicts.values())}

"""The scores of images that were drawn for prompts, and controls that draw without a model.

A new client's prompts are the captions of its held-out images, so that each has a true image. The
other clients' images, which the clients' side of a simulation has, tell whose style was drawn.
n: drawn images, N: images of everybody, L: words of a caption.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from spire_core.evaluation.extractors import Extractor
from spire_core.evaluation.image_metrics import paired_distance
from spire_core.evaluation.prompted_images import (
    Gallery,
    mean_images,
    nearest_images,
    owner_distances,
    paired_pixel_distances,
    pixel_distances,
    retrieval_rank,
)
from spire_core.partition.split import Partition
from spire_core.training.fit import to_float

Scores = dict[str, float]


def gallery_of(
    partition: Partition, images: np.ndarray, tokens: np.ndarray | None
) -> Gallery | None:
    """Return all clients' images (N, C, H, W) with their captions' kinds, by tokens (N, L).

    None without captions, and where clients are not those of the data.
    """
    if tokens is None or not partition.names:
        return None
    _, kinds = np.unique(tokens, axis=0, return_inverse=True)
    owner = np.full(len(images), -1)
    for client in (*partition.train_clients, *partition.new_clients):
        owner[client.train] = owner[client.test] = client.client_id
    return Gallery(images, kinds.reshape(-1), owner)


def text_scores(client: ClientData, images: Tensor, classifier: Extractor | None) -> Scores:
    """Return how well images (n, C, H, W) are what their prompts ask for; empty without text.

    `style_distance`: the mean distance to the true image of each prompt. `prompt_accuracy`: the
    share whose class the data set's own classifier recognises, and `true_accuracy` that of the true
    images. `copied`: the share that is nearer to an image that the client shows than to the true
    one, not as near; `shown_distance`: the mean distance to the nearest of these. `retrieved`: 1 if
    no other client's images of the same captions are as near as those that the client holds out,
    else 0; `retrieval_rank`: how many clients' are, its own included.
    """
    found = client.truth(len(images))
    if found is None:
        return {}
    truth, labels = to_float(found[0]), found[1]
    scores = {"style_distance": paired_distance(images, truth)}
    if classifier is not None:
        for name, shown in (("prompt_accuracy", images), ("true_accuracy", truth)):
            predicted = classifier.class_predictions(shown)
            assert predicted is not None  # a classifier has classes
            scores[name] = float((predicted == labels).double().mean())
    scores |= _copies(client, images, truth)
    if client.gallery is not None:
        kinds = client.gallery.kinds[client.asked(len(images))]
        unseen = client.gallery.without(client.split.train)
        rank = retrieval_rank(client.client_id, images, kinds, unseen)
        scores |= {"retrieved": float(rank == 1), "retrieval_rank": float(rank)}
    return scores


def _copies(client: ClientData, images: Tensor, truth: Tensor) -> Scores:
    nearest = pixel_distances(images, to_float(client.train_images())).amin(1)
    own = paired_pixel_distances(images, truth)
    return {
        "copied": float((nearest < own).double().mean()),
        "shown_distance": float(nearest.mean()),
    }


def control_images(client: ClientData, num_images: int, trained: Gallery) -> dict[str, Tensor]:
    """Return what the controls draw for a client's prompts, (num_images, C, H, W) each.

    `copies`: the images that the client shows, in turn, whatever is asked for. `mean_client`: the
    mean of what all pre-training clients train on for the prompt. `nearest_client`: the image of
    the one that is nearest to what the client shows, or of the next that has the prompt. `trained`
    has the images that they train on; the last two are left out if one prompt is in none.
    """
    kinds = trained.kinds[client.asked(num_images)]
    shown = to_float(client.train_images())
    distances = owner_distances(shown, trained.kinds[client.split.train], trained)
    drawn = {
        "copies": shown[torch.arange(len(kinds)) % len(shown)],
        "mean_client": mean_images(kinds, trained),
        "nearest_client": nearest_images(kinds, trained, distances),
    }
    return {name: images for name, images in drawn.items() if images is not None}


def training_images(partition: Partition, gallery: Gallery) -> Gallery:
    """Return what pre-training clients train on."""
    return gallery.only(np.concatenate([client.train for client in partition.train_clients]))

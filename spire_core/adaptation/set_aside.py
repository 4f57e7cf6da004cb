"""The training images of a new client that its fit steps on, and those that it sets aside.

By the latter it chooses: an epoch (early stopping), or its guidance.
"""

import torch
from torch import Tensor

from spire_core.errors import DataError
from spire_core.partition.split import ClientSplit
from spire_core.rng import torch_generator

VALIDATION_FRACTION = 0.2


def split_validation(client_id: int, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions of a new client's training and of its validation images, one at least.

    Raises DataError for fewer than two images.
    """
    if num_images < 2:
        raise DataError(
            f"expected at least 2 images of client {client_id}, one of them set aside, got "
            f"{num_images}: set adapt.early_stopping=false and adapt.guidance=null"
        )
    order = torch.randperm(num_images, generator=torch_generator(seed, "validation", client_id))
    num_val = min(num_images - 1, max(1, round(VALIDATION_FRACTION * num_images)))
    return order[num_val:], order[:num_val]


def set_aside_split(split: ClientSplit, seed: int) -> ClientSplit:
    """Return a new client's split whose held-out images are those that it sets aside."""
    at_train, at_val = split_validation(split.client_id, len(split.train), seed)
    return ClientSplit(split.client_id, split.train[at_train.numpy()], split.train[at_val.numpy()])


def fitted_split(split: ClientSplit, sets_aside: bool, seed: int) -> ClientSplit:
    """Return a new client's split with the training images that its fit steps on alone.

    These are all, unless it `sets_aside` some of them.
    """
    if not sets_aside:
        return split
    return ClientSplit(split.client_id, set_aside_split(split, seed).train, split.test)

"""A new client's training images that its fit sees, and those that it sets aside for a choice."""

import numpy as np

from pipeline.clients.client_data import ClientData
from spire_core.adaptation.adapt import split_validation
from spire_core.config.adapt import AdaptConfig
from spire_core.partition.split import ClientSplit


def as_fitted(client: ClientData, settings: AdaptConfig, seed: int) -> ClientData:
    """Return a new client with the training images that its fit steps on; `seed` is the run's."""
    if not settings.sets_aside:
        return client
    return _with(client, _positions(client, settings, seed)[0], client.split.test)


def held_out_as_set_aside(client: ClientData, settings: AdaptConfig, seed: int) -> ClientData:
    """Return a new client whose held-out images are those that it sets aside."""
    return _with(client, *_positions(client, settings, seed))


def _positions(client: ClientData, settings: AdaptConfig, seed: int) -> list[np.ndarray]:
    train = client.split.train
    at = split_validation(client.client_id, len(train), settings.val_fraction, seed)
    return [train[some.numpy()] for some in at]


def _with(client: ClientData, train: np.ndarray, test: np.ndarray) -> ClientData:
    return client.with_split(ClientSplit(client.client_id, train, test))

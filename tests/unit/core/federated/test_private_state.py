"""A client's private state and its flat form, in which it is stored."""

import torch
from torch import Tensor

from spire_core.federated.private_state import PrivateState
from spire_core.training.adam import PartMoments

PARTS = {"client_emb": torch.ones(3), "local": torch.full((5,), 2.0)}
MOMENTS = {"local": PartMoments(torch.full((5,), 3.0), torch.full((5,), 4.0), torch.tensor(5.0))}
SNAPSHOTS = {0: torch.zeros(3), 12: torch.ones(3)}
FULL = PrivateState(PARTS, MOMENTS, torch.full((7,), 6.0), SNAPSHOTS, 1.1)
NAMES = {
    "client_emb": 3,
    "local": 5,
    "local.exp_avg": 5,
    "local.exp_avg_sq": 5,
    "local.step": 1,
    "shared.residual": 7,
    "guidance.scale": 1,
    "after.0": 3,
    "after.12": 3,
}


def test_there_and_back() -> None:
    assert {name: tensor.numel() for name, tensor in FULL.to_tensors().items()} == NAMES

    def listed(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
        return {name: tensor.reshape(-1).tolist() for name, tensor in tensors.items()}

    found = PrivateState.from_tensors(FULL.to_tensors())
    assert listed(found.to_tensors()) == listed(FULL.to_tensors())
    assert found.parts.keys() == PARTS.keys()
    assert found.moments.keys() == MOMENTS.keys()
    assert found.residual is not None
    assert sorted(found.snapshots) == [0, 12]
    assert found.guidance == 1.1  # to the last bit

"""The practical limit: plain PyTorch, two processes of one thread, each with half of the clients.

python -m benchmarks.peers.plain tiny 5
"""

import multiprocessing
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.peers.work import (
    NUM_PROCESSES,
    WORKS,
    Work,
    arguments,
    client_images,
    first_network,
    report,
    train,
)
from spire_core.network.unet import UNet


def train_clients(
    net: UNet, images: Tensor, weights: Tensor, work: Work, ids: Iterable[int], round_idx: int
) -> Tensor:
    """Return the sums over these clients of examples times weights, losses, and 1."""
    total = torch.zeros(len(weights) + 2)
    for client_id in ids:
        own = images[client_id]
        vector_to_parameters(weights.clone(), net.parameters())
        loss = train(net, own, work, client_id, round_idx)
        trained = parameters_to_vector(net.parameters()).detach()
        total += len(own) * torch.cat([trained, torch.tensor([loss, 1.0])])
    return total


def run_rounds(rank: int, work: Work, num_rounds: int, meeting_point: Path) -> None:
    """Train every second client, and average with the other process after each round."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=NUM_PROCESSES
    )
    images = torch.from_numpy(client_images(work.num_clients))
    net = first_network(work)
    weights = parameters_to_vector(net.parameters()).detach()
    for round_idx in range(num_rounds):
        ids = range(rank, work.num_clients, NUM_PROCESSES)
        total = train_clients(net, images, weights, work, ids, round_idx)
        dist.all_reduce(total)
        weights = total[:-2] / total[-1]
        if rank == 0:
            report(round_idx, float(total[-2] / total[-1]))
    dist.destroy_process_group()


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        given = (WORKS[args.work], args.num_rounds, Path(folder) / "meet")
        other = multiprocessing.get_context("fork").Process(target=run_rounds, args=(1, *given))
        other.start()
        run_rounds(0, *given)
        other.join()


if __name__ == "__main__":
    main()

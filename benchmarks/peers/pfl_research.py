"""The work on Apple's pfl-research: two processes under torchrun.

    build/peers/pfl/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 \
        -m benchmarks.peers.pfl_research tiny 5
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops.selector import get_framework_module
from pfl.metrics import Metrics, StringMetricName, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor

from benchmarks.peers.work import (
    BATCH_SIZE,
    LR,
    WORKS,
    Work,
    arguments,
    batch_loss,
    client_images,
    first_network,
    noise_stream,
    order,
    report,
)
from spire_core.network.unet import UNet

LOSS = StringMetricName("training loss")


class PflUNet(UNet):
    """The network with the two methods that pfl asks for; it adds up its training losses."""

    total_loss = 0.0

    def loss(self, x0: Tensor, noise: torch.Generator) -> Tensor:
        loss = batch_loss(self, x0, noise)
        self.total_loss += loss.detach()
        return loss

    def metrics(self, x0: Tensor) -> dict[str, Any]:
        """pfl asks for this in evaluations, of which there are none."""
        raise NotImplementedError


class Client(PyTorchTensorDataset):
    """A client's images in the order of one round."""

    def __init__(self, images: Tensor, work: Work, client_id: int, round_idx: int) -> None:
        noise = noise_stream(client_id, round_idx)
        super().__init__((images,), user_id=str(client_id), train_kwargs={"noise": noise})
        self.order = order(work, len(images), client_id, round_idx)

    def iter(self, batch_size: int | None) -> Iterator[list[Tensor]]:
        return ([self.raw_data[0][index]] for index in self.order)


class ReportedFedAvg(FederatedAveraging):
    """Federated averaging that returns the clients' training losses as a metric.

    It leaves out the evaluation of every client that pfl makes in the first round: that is no part
    of the work.
    """

    def simulate_one_user(
        self, model: PyTorchModel, user_dataset: Client, central_context: Any
    ) -> tuple[Any, Metrics]:
        context = dataclasses.replace(central_context, do_evaluation=False)
        return super().simulate_one_user(model, user_dataset, context)

    def train_one_user(
        self,
        initial_model_state: Any,
        model: PyTorchModel,
        user_dataset: Client,
        central_context: Any,
    ) -> tuple[Any, Metrics]:
        net: Any = model.pytorch_model
        net.total_loss = 0.0
        statistics, metrics = super().train_one_user(
            initial_model_state, model, user_dataset, central_context
        )
        num_steps = central_context.model_train_params.local_num_steps
        metrics[LOSS] = Weighted.from_unweighted(float(net.total_loss) / num_steps)
        return statistics, metrics


class Report(TrainingProcessCallback):
    """Tells when a round has ended."""

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        if get_framework_module().distributed.global_rank == 0:
            report(central_iteration, aggregate_metrics[LOSS].overall_value)
        return False, Metrics()


def make_clients(work: Work) -> FederatedDataset:
    """Return all clients; taken in turn, each comes once a round and always to the same process."""
    images, rounds_done = torch.from_numpy(client_images(work.num_clients)), Counter[int]()

    def make_client(client_id: int) -> Client:
        rounds_done[client_id] += 1
        return Client(images[client_id], work, client_id, rounds_done[client_id] - 1)

    return FederatedDataset(
        make_client, get_user_sampler("minimize_reuse", list(range(work.num_clients)))
    )


def main() -> None:
    args = arguments()
    work = WORKS[args.work]
    torch.set_num_threads(1)
    net = first_network(work, PflUNet)
    model = PyTorchModel(
        net,
        local_optimizer_create=functools.partial(torch.optim.Adam, fused=True),
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    clients = make_clients(work)
    ReportedFedAvg().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=args.num_rounds,
            evaluation_frequency=args.num_rounds,
            train_cohort_size=work.num_clients,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(clients, clients, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=BATCH_SIZE,
            local_num_epochs=None,
            local_num_steps=work.num_steps,
            local_learning_rate=LR,
        ),
        callbacks=[Report()],
    )


if __name__ == "__main__":
    main()

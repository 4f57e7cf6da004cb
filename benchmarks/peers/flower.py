"""The work on Flower's simulation engine: two clients at a time, each on one CPU.

    build/peers/flower/bin/python -m benchmarks.peers.flower tiny 5

Client and server are those of Flower's PyTorch quickstart, with what a process needs in every round
(images, network) kept instead of built anew.
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers.work import (
    NUM_PROCESSES,
    WORKS,
    Work,
    arguments,
    first_network,
    kept,
    report,
    train,
)


def make_client_app(work: Work) -> ClientApp:
    app = ClientApp()

    @app.train()
    def fit(message: Message, context: Context) -> Message:
        net, images = kept(work)
        client_id = int(context.node_config["partition-id"])
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        round_idx = int(message.content["config"]["server-round"]) - 1
        loss = train(net, images[client_id], work, client_id, round_idx)
        metrics = MetricRecord({"loss": loss, "num-examples": len(images[client_id])})
        content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


class ReportedFedAvg(FedAvg):
    """FedAvg that tells when a round has ended."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert metrics is not None, "no client answered"
        report(server_round - 1, float(metrics["loss"]))
        return arrays, metrics


def make_server_app(work: Work, num_rounds: int) -> ServerApp:
    app = ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = ReportedFedAvg(fraction_evaluate=0.0, min_available_nodes=work.num_clients)
        arrays = ArrayRecord(first_network(work).state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=num_rounds)

    return app


def main() -> None:
    args = arguments()
    work = WORKS[args.work]
    run_simulation(
        make_server_app(work, args.num_rounds),
        make_client_app(work),
        num_supernodes=work.num_clients,
        backend_config={
            "init_args": {"num_cpus": NUM_PROCESSES},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()

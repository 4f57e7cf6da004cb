"""How fast this package is, part by part, each beside what plain PyTorch does for the same.

    python benchmarks/engine.py --out benchmarks/results/engine.json

The systems of a part are timed alternately, so that all of them meet the same machine; medians are
reported, of wall time and of CPU time of the processes that do a system's work (this one and its
two workers; Ray's own daemons show in the wall time alone). The first of each part is the plain one
that the ratios are taken to, for equal work. On a machine that does other work, only
the CPU seconds and their ratios mean something.
"""

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import torch
from plain_loop import PlainLoop, PlainUNet, Work, train_clients

from pipeline.allocation import keep_freed_memory
from pipeline.config import load_config
from pipeline.driver import Driver, Rounds
from pipeline.messages import WorkerSetup
from pipeline.pool import ClientPool, LocalClientPool
from pipeline.ray_cluster import cluster
from pipeline.ray_pool import RayClientPool
from pipeline.resources import ActorPlan
from pipeline.schema import Config, FederationConfig
from pipeline.worker import ClientWorker
from spire_core.adapt import AdaptConfig, adapt_client
from spire_core.adapt_together import adapt_embeddings
from spire_core.client import ClientUpdate
from spire_core.evaluate import client_denoiser, draw
from spire_core.flat import FlatModel, initial_weights
from spire_core.kid import kid, kid_matrix
from spire_core.methods import CLIENT_EMB, MethodConfig
from spire_core.partition import ClientSplit, Partition
from spire_core.rng import torch_generator
from spire_core.schedule import denoising_loss, make_schedule
from spire_core.server import ServerState, aggregate
from spire_core.training import Recipe, to_float

IMAGES = 100  # of a client
WORKS = {
    "tiny, 20 clients x 4 steps": Work(width=8, num_clients=20, steps=4),
    "small, 20 clients x 4 steps": Work(width=16, num_clients=20, steps=4),
    "tiny, 200 clients x 1 step": Work(width=8, num_clients=200, steps=1),
}
STEP = Work(width=8, num_clients=5, steps=4)
MOST_CLIENTS = max(work.num_clients for work in WORKS.values())
Cost = tuple[float, float]  # wall and CPU seconds
Call = Callable[[], Any]
Systems = dict[str, tuple[Call, Sequence[int], int]]  # a call, its workers' pids, its units of work


def config_for(width: int, engine: str) -> Config:
    """The acceptance's network and training: 16 x 16 x 1 as it is, fresh Adam, batches of 32."""
    return load_config(
        None,
        [
            "method=fedavg",
            f"model.width={width}",
            f"model.cond_dim={4 * width}",
            "model.multipliers=[1,2,2]",
            "model.attention=[1]",
            "model.space_to_depth=1",
            f"federation.num_clients={MOST_CLIENTS}",
            f"federation.cohort_size={MOST_CLIENTS}",
            "client.batch_size=32",
            "client.opt_state=reset",
            f"client.engine={engine}",
        ],
    )


def check_same_network(width: int) -> None:
    """Raise AssertionError unless the plain U-Net and ours compute the same."""
    config, plain = config_for(width, "loop"), PlainUNet(width)
    ours = FlatModel(config.model, config.method, 1)
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.1)
    ours.load(ours.flatten(plain.state_dict()))
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 700])
    torch.testing.assert_close(ours.net(x, t), plain(x, t), rtol=1e-3, atol=1e-3)


def setup_for(config: Config, folder: Path) -> tuple[WorkerSetup, np.ndarray]:
    """Random images of the acceptance's shape, `IMAGES` to a client."""
    images = np.random.default_rng(0).integers(0, 256, (MOST_CLIENTS * IMAGES, 1, 16, 16), np.uint8)
    held = np.arange(len(images)).reshape(MOST_CLIENTS, IMAGES)
    clients = tuple(ClientSplit(i, own, own) for i, own in enumerate(held))
    mixtures = {i: np.full(10, 0.1) for i in range(MOST_CLIENTS)}
    return WorkerSetup(config, mixtures, Partition(clients, ()), "", folder), images


def driver_for(pool: ClientPool, config: Config, work: Work) -> Driver:
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    federation = FederationConfig(
        num_clients=work.num_clients, cohort_size=work.num_clients, num_rounds=1000, tau=work.steps
    )
    config = dataclasses.replace(config, federation=federation, seed=0)
    layout = FlatModel(config.model, config.method, 1).layout
    rounds = Rounds.of(config, [IMAGES] * work.num_clients, layout)
    return Driver(pool, ServerState.initial(weights), rounds)


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of this process and of those named, so far."""
    times = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), *pids)]
    return sum(t.user + t.system for t in times)


def measured(call: Call, pids: Sequence[int]) -> Cost:
    wall, cpu = time.perf_counter(), cpu_s(pids)
    call()
    return time.perf_counter() - wall, cpu_s(pids) - cpu


def actor_pids() -> set[int]:
    """The client actors of this process's own Ray."""
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "".join(process.cmdline()[:1]).startswith("ray::ClientActor")
    }


def alternately(systems: Systems, repeats: int) -> dict[str, dict[str, Any]]:
    """Return medians and all values of each system's wall and CPU seconds, after one warm-up.

    Ratios are those of the seconds per unit of work, to the first system.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in systems}
    for repeat in range(repeats + 1):
        for name, (call, pids, _) in systems.items():
            cost = measured(call, pids)
            if repeat > 0:
                costs[name].append(cost)
    found: dict[str, dict[str, Any]] = {}
    for name, (_, _, units) in systems.items():
        wall_s, cpu_s = (statistics.median(several) for several in zip(*costs[name], strict=True))
        found[name] = {"units": units, "wall_s": wall_s, "cpu_s": cpu_s, "all": costs[name]}
    reference = next(iter(found.values()))
    for own in found.values():
        for clock in ("wall", "cpu"):
            per_unit = own[f"{clock}_s"] / own["units"]
            plain = reference[f"{clock}_s"] / reference["units"]
            own[f"{clock}_ratio"] = per_unit / plain if plain else None
    return found


@contextlib.contextmanager
def ray_pools(folder: Path, engines: Sequence[str]) -> Iterator[dict[tuple[int, str], Any]]:
    """Yield a pool of two actors for each width and engine, its configuration, and its pids."""
    with cluster(num_cpus=16) as _, contextlib.ExitStack() as stack:
        pools = {}
        for width in sorted({work.width for work in WORKS.values()}):
            for engine in engines:
                config = config_for(width, engine)
                setup, images = setup_for(config, folder)
                before = actor_pids()
                pool = RayClientPool.start(setup, images, ActorPlan(2, 1.0, 0.0))
                stack.callback(pool.close)
                pools[width, engine] = pool, config, sorted(actor_pids() - before)
        yield pools


def time_rounds(repeats: int) -> dict[str, Any]:
    """Whole rounds: hand-out, local training of all clients, average."""
    plain = PlainLoop(MOST_CLIENTS)
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(plain),
        ray_pools(Path(folder), ("loop", "auto")) as pools,
    ):
        for name, work in WORKS.items():
            start = dict(PlainUNet(work.width).state_dict())
            systems: Systems = {
                f"plain loop{told}": (
                    lambda w=work, s=start, f=fused: plain.run_round(w, s, f),
                    plain.pids,
                    1,
                )
                for told, fused in (("", False), (", fused Adam", True))
            }
            for engine in ("loop", "auto"):
                pool, config, pids = pools[work.width, engine]
                driver = driver_for(pool, config, work)
                systems[f"ray, engine={engine}"] = driver.run_round, pids, 1
            found[f"round: {name}"] = alternately(systems, repeats)
    return found


def time_step(repeats: int) -> dict[str, Any]:
    """Local steps of five clients in this process, with their hand-out and average."""
    images = torch.randint(0, 256, (STEP.num_clients, IMAGES, 1, 16, 16), dtype=torch.uint8)
    start = {k: p.detach() for k, p in PlainUNet(STEP.width).state_dict().items()}
    units = STEP.num_clients * STEP.steps
    systems: Systems = {
        "plain loop": (
            lambda: train_clients(STEP, list(range(STEP.num_clients)), images, start, False),
            (),
            units,
        )
    }
    with tempfile.TemporaryDirectory() as folder:
        for engine in ("loop", "auto"):
            config = config_for(STEP.width, engine)
            pool = LocalClientPool(ClientWorker(*setup_for(config, Path(folder))))
            systems[f"engine={engine}"] = driver_for(pool, config, STEP).run_round, (), units
        return {"step, tiny, batch 32, one process": alternately(systems, repeats)}


def first_round(pool: str) -> None:
    """Start a pool, run one round of the tiny work, end."""
    config, work = config_for(8, "auto"), WORKS["tiny, 20 clients x 4 steps"]
    with tempfile.TemporaryDirectory() as name:
        setup, images = setup_for(config, Path(name))
        if pool == "local":
            driver_for(LocalClientPool(ClientWorker(setup, images)), config, work).run_round()
            return
        with cluster(num_cpus=2):
            actors = RayClientPool.start(setup, images, ActorPlan(2, 1.0, 0.0))
            driver_for(actors, config, work).run_round()


def time_startup(repeats: int) -> dict[str, Any]:
    """From the start of the interpreter to its end after one round of the tiny work."""
    here = Path(__file__).parent
    commands = {
        "plain loop": [here / "plain_loop.py"],
        "local": [__file__, "--first-round", "local"],
        "ray": [__file__, "--first-round", "ray"],
    }
    systems: Systems = {
        name: (lambda c=command: subprocess.run([sys.executable, *map(str, c)], check=True), (), 1)
        for name, command in commands.items()
    }
    timed = alternately(systems, min(3, repeats))
    for own in timed.values():  # what ended is no descendant any more: only wall time is known
        own |= {"cpu_s": None, "cpu_ratio": None}
    return {"start-up to the end of round 1, tiny": timed}


def time_aggregation(repeats: int) -> dict[str, Any]:
    """The weighted mean of 20 updates of the small network."""
    config, rng = config_for(16, "loop"), np.random.default_rng(0)
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    updates = [
        ClientUpdate(i, IMAGES, 4, 0.0, rng.standard_normal(weights.size, np.float32))
        for i in range(20)
    ]
    state = ServerState.initial(weights)

    def plain() -> np.ndarray:
        total = np.zeros_like(weights)
        for update in updates:
            total += update.num_examples * update.weights
        return total / sum(update.num_examples for update in updates)

    systems: Systems = {
        "plain sum in float32": (plain, (), 1),
        "ours, in float64": (
            lambda: aggregate(state, updates, config.server),
            (),
            1,
        ),
    }
    return {"average of 20 updates, small": alternately(systems, repeats)}


def time_adaptation(repeats: int) -> dict[str, Any]:
    """One pass over 64 images in batches of 16, in three networks; a unit is a client."""
    preset, part = load_config("mnist-cpu"), "adaptation, an epoch of 64 images"
    repeats = min(3, repeats)
    found = {part: alternately(adaptation_systems(preset), repeats)}
    for name, width in (("tiny", 8), ("small", 16)):
        config = dataclasses.replace(preset, model=config_for(width, "auto").model)
        found[f"{part}, {name}"] = alternately(adaptation_systems(config), repeats)
    return found


def adaptation_systems(config: Config) -> Systems:
    """What fits new clients in a configuration's network: one by one, together, and entirely."""
    diffusion = config.diffusion
    schedule = make_schedule(diffusion.schedule, diffusion.num_timesteps)
    recipe, settings = Recipe(diffusion, schedule, config.client.betas), AdaptConfig(epochs=1)
    images = torch.randint(0, 256, (64, 64, 1, 16, 16), dtype=torch.uint8)

    def one_by_one(method: MethodConfig, start: dict[str, torch.Tensor]) -> Call:
        model = FlatModel(config.model, method, 1)
        weights = initial_weights(config.model, method, 1, 0)

        def call() -> None:
            for i in range(8):
                adapt_client(
                    model, weights, start, images[i], settings, recipe, 0, i, lambda *_: {}
                )

        return call

    spire, zero = MethodConfig(name="spire"), {CLIENT_EMB: torch.zeros(config.model.d_emb)}
    model = FlatModel(config.model, spire, 1)
    weights = initial_weights(config.model, spire, 1, 0)

    def plain() -> None:
        """As one would write it: the network frozen, torch's Adam, a client after the other."""
        model.load(weights)
        net = model.net.requires_grad_(False)
        for i in range(8):
            emb = torch.nn.Parameter(zero[CLIENT_EMB].clone())
            optimizer = torch.optim.Adam([emb], lr=spire.record.adapt_lr)
            for batch in torch.randperm(64).split(16):
                x0 = to_float(images[i][batch])
                t, eps = torch.randint(0, diffusion.num_timesteps, (16,)), torch.randn(x0.shape)
                condition = emb.expand(16, -1)
                loss = denoising_loss(
                    schedule,
                    diffusion.prediction,
                    lambda xt, at, c=condition: net(xt, at, c),
                    x0,
                    t,
                    eps,
                ).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def together(count: int, size: int) -> Call:
        def call() -> None:
            for ids in torch.arange(count).split(size):
                starts, observers = [zero] * len(ids), [lambda *_: {}] * len(ids)
                own, whose = list(images[ids]), ids.tolist()
                adapt_embeddings(model, weights, starts, own, settings, recipe, 0, whose, observers)

        return call

    fine_tuning = one_by_one(MethodConfig(name="fedavg_ft"), {})
    return {
        "plain loop, embedding": (plain, (), 8),
        "full fine-tuning, one by one": (fine_tuning, (), 8),
        "embedding, one by one": (one_by_one(spire, zero), (), 8),
        **{f"embedding, {n} in one batch": (together(n, n), (), n) for n in (1, 8, 64)},
        **{f"embedding, 64 in batches of {n}": (together(64, n), (), 64) for n in (8, 16, 32)},
    }


def time_sampling(repeats: int) -> dict[str, Any]:
    """16 images for each of 8 clients, in the preset's network."""
    config = load_config("mnist-cpu")
    diffusion, model = config.diffusion, FlatModel(config.model, config.method, 1)
    model.load(initial_weights(config.model, config.method, 1, 0))
    schedule = make_schedule(diffusion.schedule, diffusion.num_timesteps)
    embs = torch.randn(8, config.model.d_emb)

    def images(denoise: Callable, count: int) -> torch.Tensor:
        generator = torch_generator(0, "sample")
        return draw(denoise, diffusion, schedule, (1, 16, 16), count, generator)

    def one_by_one() -> None:
        for emb in embs:
            images(client_denoiser(model, emb), 16)

    def together() -> None:
        rows = embs.repeat_interleave(16, dim=0)
        images(lambda xt, t: model.net(xt, t, rows), 128)

    systems: Systems = {
        "8 clients one by one": (one_by_one, (), 8),
        "8 clients in one batch": (together, (), 8),
    }
    return {"sampling, 16 images": alternately(systems, repeats)}


def time_kid(repeats: int) -> dict[str, Any]:
    """20 subsets, beside torch-fidelity on the same features: one score, and a matrix of them."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    def theirs(real: torch.Tensor, fake: torch.Tensor, size: int) -> None:
        more = {"kid_subsets": 20, "kid_subset_size": size, "rng_seed": 0, "verbose": False}
        kid_features_to_metric(real, fake, **more)

    real, fake = torch.randn(2, 1000, 64)
    sets = [torch.randn(200, 64) for _ in range(8)], [torch.randn(128, 64) for _ in range(8)]

    def matrix() -> None:
        for one, other in itertools.product(*sets):
            theirs(one, other, 128)

    one: Systems = {
        "torch-fidelity": (lambda: theirs(real, fake, 500), (), 1),
        "kid": (lambda: kid(real, fake, 500), (), 1),
    }
    many: Systems = {
        "torch-fidelity": (matrix, (), 64),
        "kid_matrix": (lambda: kid_matrix(sets[1], sets[0], 128), (), 64),
    }
    return {
        "KID of 1000 images": alternately(one, repeats),
        "KID of 8 x 8 clients, 200 and 128 images": alternately(many, min(3, repeats)),
    }


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "step": time_step,
    "rounds": time_rounds,
    "startup": time_startup,
    "aggregation": time_aggregation,
    "adaptation": time_adaptation,
    "sampling": time_sampling,
    "kid": time_kid,
}


def where() -> dict[str, Any]:
    """Commit, machine and load."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "has_uncommitted_changes": bool(changed.stdout.strip()),
        "cpu": sorted(names) or platform.processor(),
        "num_cpus": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg(),
        "default_client": dataclasses.asdict(config_for(8, "auto").client),
    }


def table(parts: dict[str, dict[str, Any]]) -> str:
    """Return all parts as one Markdown table; milliseconds are those of a unit of work."""
    lines = [
        "| part | system | ms | CPU ms | ratio | CPU ratio |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for part, timed in parts.items():
        for system, own in timed.items():
            wall, cpu = (
                "-"
                if own[f"{clock}_s"] is None
                else f"{1000 * own[f'{clock}_s'] / own['units']:.4g}"
                for clock in ("wall", "cpu")
            )
            ratios = (
                "-" if own[k] is None else f"{own[k]:.2f}" for k in ("wall_ratio", "cpu_ratio")
            )
            lines.append(f"| {part} | {system} | {wall} | {cpu} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engine.json"))
    parser.add_argument("--repeats", type=int, default=5)
    text = "time this alone; name another --out to keep the other parts"
    parser.add_argument("--only", choices=PARTS, help=text)
    parser.add_argument("--first-round", choices=("ray", "local"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a `ClientWorker` does; the plain loop's processes are on their own
    if args.first_round:
        first_round(args.first_round)
        return
    for work in WORKS.values():
        check_same_network(work.width)
    told, parts = where(), {}
    for name in [args.only] if args.only else PARTS:
        parts |= PARTS[name](args.repeats)
    told["load_average_at_end"] = os.getloadavg()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"where": told, "parts": parts}, indent=1) + "\n")
    print(table(parts))


if __name__ == "__main__":
    main()

"""What a checkpoint after every round costs, as a share of a round at the size of mnist-cpu.

    python benchmarks/checkpoint_cost.py [--blocks 30] [--rounds 10] [key=value ...]

Blocks of rounds with a checkpoint each and blocks without take turns on the same clients. Each
begins with a round more, in which nothing is counted: as in the middle of a run, a block has what
is left to do of the checkpoint before it, and leaves as much of its last one to the next. Writes
results/checkpoint_cost.json: the median seconds of a round of each kind, block by block.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.checkpoint.checkpointer import Checkpointer
from pipeline.checkpoint.snapshots import checkpoints
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.experiment.pools import open_pool
from pipeline.federation.driver import RoundDriver
from pipeline.federation.round_loop import ending
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.setup import prepare
from pipeline.files.revision import git_revision
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import initial_weights

OUT = Path(__file__).parent / "results" / "checkpoint_cost.json"
WARM_UP = 5  # rounds that are not counted


def block_s(driver: RoundDriver, checkpointer: Checkpointer, num_rounds: int, takes: bool) -> float:
    """Return the seconds of a round in a block of rounds, with a checkpoint after each or none."""
    checkpointer.wait()
    began = 0.0
    for counted in range(num_rounds + 1):
        if counted == 1:
            began = time.perf_counter()
        stats = driver.run_round(checkpointer.kept_rounds())
        if takes:
            checkpointer.take(driver, stats.round_idx + 1)
    return (time.perf_counter() - began) / num_rounds


def measure(config: Config, run_dir: Path, num_blocks: int, num_rounds: int) -> dict[str, Any]:
    """Return the times of blocks with and without checkpoints, and what follows from them."""
    setting = prepare(config)
    times: dict[bool, list[float]] = {False: [], True: []}
    with open_pool(setting, run_dir) as (pool, make_driver):
        initial = initial_weights(config.model, config.method, setting.images.shape[1], config.seed)
        rounds = RoundSettings.of(config, setting.partition.train_sizes, setting.model.layout)
        driver = make_driver(pool, ServerState.initial(initial.numpy()), rounds)
        checkpointer = Checkpointer(run_dir, config)
        with ending([checkpointer]):
            block_s(driver, checkpointer, WARM_UP, takes=True)
            for block in range(num_blocks):
                for takes in (block % 2 == 0, block % 2 == 1):
                    times[takes].append(block_s(driver, checkpointer, num_rounds, takes))
        driver.close()
    without, with_ = statistics.median(times[False]), statistics.median(times[True])
    shares = [w / wo - 1 for wo, w in zip(times[False], times[True], strict=True)]
    return {
        "round_s": without,
        "round_with_checkpoint_s": with_,
        "share": with_ / without - 1,
        "share_by_pair_median": statistics.median(shares),
        "rounds_by_block_s": {"without": times[False], "with": times[True]},
        "checkpoint_bytes": sum(p.stat().st_size for p in checkpoints(run_dir)[-1].glob("*")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=30, help="of each kind")
    parser.add_argument("--rounds", type=int, default=10, help="in a block")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("words", nargs="*", metavar="key=value")
    args = parser.parse_args()
    config = load_config("mnist-cpu", args.words)
    with tempfile.TemporaryDirectory(dir=".") as folder:  # a disk as runs have it, not memory
        told = measure(config, Path(folder).resolve(), args.blocks, args.rounds)
    told |= {
        "command": f"benchmarks/checkpoint_cost.py --blocks {args.blocks} --rounds {args.rounds}",
        "overrides": args.words,
        "commit": git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "keep_checkpoints": config.tracking.keep_checkpoints,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    print(
        f"a round: {told['round_s']:.4f} s; with a checkpoint: "
        f"{told['round_with_checkpoint_s']:.4f} s ({told['share']:+.1%})"
    )


if __name__ == "__main__":
    main()

"""All methods on the same data, seeds and budget; writes one JSON a method and seed.

Each new client's fit is done at several rates.

    python benchmarks/compare_methods.py --methods spire fedavg shared_rep local \\
        --seeds 0 1 2 --out benchmarks/results/compare
    python benchmarks/compare_methods.py --table --out benchmarks/results/compare

`fedavg_ft` is measured with `fedavg`: the two share their pre-training, number by number.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.adaptation import adapt
from pipeline.config import load_config
from pipeline.driver import Driver
from pipeline.evaluation import RealData
from pipeline.open_pool import open_pool
from pipeline.pretraining import pretrain
from pipeline.progress import Watcher
from pipeline.result import Result
from pipeline.schema import Config
from pipeline.setting import prepare
from pipeline.summary import adaptation_metrics, new_clients_table, params_counts
from pipeline.tracking import Tracker
from spire_core.adapt import AdaptConfig

RATES = {
    "spire": (0.005, 0.02, 0.1, 0.5),
    "fedavg": (1e-3,),  # adapts nothing
    "fedavg_ft": (1e-4, 3e-4, 1e-3, 3e-3),
    "shared_rep": (3e-4, 1e-3, 2e-3, 5e-3),
    "local": (1e-3, 2e-3, 5e-3),
}
INITS = {"spire": ("zero", "mean", "random")}
SHARES_PRETRAINING = {"fedavg": ("fedavg", "fedavg_ft")}


def measure(method: str, seed: int, overrides: list[str]) -> list[dict[str, Any]]:
    """Pre-train once and adapt at every rate; return one record per adapting method and rate."""
    config = load_config(
        "mnist-cpu",
        [
            f"method={method}",
            f"seed={seed}",
            "resources.pool=local",
            "tracking.enabled=false",
            "adapt.eval_every=10",
            *overrides,
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(
            config, tracking=dataclasses.replace(config.tracking, root=folder)
        )
        with Tracker.start(config.tracking, method, {}) as tracker:
            return _measure(config, tracker)


def _measure(config: Config, tracker: Tracker) -> list[dict[str, Any]]:
    setting = prepare(config)
    measured = setting.eval_ids + setting.new_ids
    with open_pool(setting, tracker.run_dir) as (pool, _):
        real = RealData.gather(pool, measured, setting.mixtures, config.eval, config.seed)
        result = Result(tracker.run_id, tracker.run_dir, setting, real)
        began = time.process_time()
        weights = pretrain(result, pool, Driver, tracker, Watcher())
        pretrain_s = time.process_time() - began
    records = []
    for name in SHARES_PRETRAINING.get(config.method.name, (config.method.name,)):
        own = dataclasses.replace(config, method=dataclasses.replace(config.method, name=name))
        own_setting = prepare(own)
        with open_pool(own_setting, tracker.run_dir) as (pool, _):
            own_result = dataclasses.replace(result, setting=own_setting)
            for init in INITS.get(name, ("zero",)):
                for lr in RATES[name] if init == "zero" else (own.method.record.adapt_lr,):
                    settings = dataclasses.replace(own.adapt, lr=lr, init=init)
                    adapt(own_result, pool, weights, settings)
                    records.append(_record(own_result, settings, pretrain_s))
    return records


def _record(result: Result, settings: AdaptConfig, pretrain_s: float) -> dict[str, Any]:
    config, total_trained = result.setting.config, params_counts(result.setting)
    evaluations = [{"round": e.round_idx, **e.metrics()} for e in result.evaluations]
    return {
        "method": config.method.name,
        "seed": config.seed,
        "lr": settings.lr,
        "init": settings.init,
        "num_rounds": config.federation.num_rounds,
        "opt_state": config.client.opt_state,
        "guidance": config.eval.guidance,
        "pretrain_cpu_s": pretrain_s,
        "params_total": total_trained[0],
        "params_trained": total_trained[1],
        "pretrain": evaluations,
        "pretrain_floor": result.real.floor_mean(result.setting.eval_ids),
        "adapt": {
            str(e): m for e, m in adaptation_metrics(result).items() if "adapt/kid/mean" in m
        },
        "new_clients": new_clients_table(result),
        "cross_client_diagonal_wins": _diagonal_wins(result),
    }


def _diagonal_wins(result: Result) -> float | None:
    """Return the share of clients whose data score their own samples better than anybody else's."""
    if result.matrix is None:
        return None
    return float(np.mean(result.matrix.argmin(axis=0) == np.arange(len(result.matrix))))


def table(folder: Path) -> str:
    """Return the comparison as Markdown: mean over seeds, each method at each of its rates."""
    records = [r for path in sorted(folder.glob("*.json")) for r in json.loads(path.read_text())]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for r in records:
        groups.setdefault((r["method"], r["init"], r["lr"]), []).append(r)
    lines = [
        "| method | init | lr | seeds | KID before | KID after | ratio | TV before | TV after "
        "| ratio | held-out | NN train / test | trained |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (method, init, lr), rows in sorted(groups.items()):
        lines.append(
            f"| {method} | {init if method == 'spire' else '-'} | {lr:g} | {len(rows)} "
            f"| {_mean(rows, 'kid_before'):.3f} | {_mean(rows, 'kid_after'):.3f} "
            f"| {_ratio(rows, 'kid'):.2f} "
            f"| {_mean(rows, 'tv_before'):.3f} | {_mean(rows, 'tv_after'):.3f} "
            f"| {_ratio(rows, 'tv'):.2f} | {_mean(rows, 'heldout_after'):.4f} "
            f"| {_mean(rows, 'nn_train'):.2f} / {_mean(rows, 'nn_test'):.2f} "
            f"| {rows[0]['params_trained']} |"
        )
    lines += [
        "",
        "| pre-training | seed | KID | worst | TV | own | zero | swapped | CPU-s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in records:
        if r["pretrain"] and r["init"] == "zero" and r["lr"] == RATES[r["method"]][0]:
            e = r["pretrain"][-1]
            kinds = ("own", "zero", "swapped")
            losses = [e.get(f"pretrain/heldout/{kind}", float("nan")) for kind in kinds]
            lines.append(
                f"| {r['method']} | {r['seed']} "
                f"| {e['pretrain/kid/mean']:.3f} | {e['pretrain/kid/worst']:.3f} "
                f"| {e['pretrain/tv/mean']:.3f} "
                f"| {losses[0]:.4f} | {losses[1]:.4f} | {losses[2]:.4f} "
                f"| {r['pretrain_cpu_s']:.0f} |"
            )
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    """Return the mean over seeds of a number's mean over new clients."""
    return float(np.mean([np.mean(r["new_clients"][key]) for r in rows]))


def _ratio(rows: list[dict[str, Any]], key: str) -> float:
    """Return how a score's mean over new clients changes by adaptation, as the mean over seeds."""
    new = [r["new_clients"] for r in rows]
    return float(np.mean([np.mean(n[f"{key}_after"]) / np.mean(n[f"{key}_before"]) for n in new]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--methods", nargs="+", default=["spire", "fedavg", "shared_rep", "local"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compare"))
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.table:
        for seed in args.seeds:
            for method in args.methods:
                records = measure(method, seed, args.overrides)
                path = args.out / f"{method}-s{seed}.json"
                path.write_text(json.dumps(records, indent=1) + "\n")
                print(f"{method}, seed {seed}: done", flush=True)
    print(table(args.out))


if __name__ == "__main__":
    main()

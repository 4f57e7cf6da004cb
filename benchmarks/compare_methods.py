"""All methods on the same data, seeds and budget, each new client's fit at several rates; writes one JSON a method and seed.

    python benchmarks/compare_methods.py --methods spire fedavg shared_rep local --seeds 0 1 2 --out benchmarks/results/compare
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

from pipeline.config import Config, load_config
from pipeline.driver import Driver
from pipeline.experiment import Result, adapt, open_pool, prepare, pretrain
from pipeline.evaluation import RealData
from pipeline.progress import Quiet
from pipeline.record import adaptation_metrics, new_clients_table, params_counts
from pipeline.tracking import Tracker
from spire_core.adapt import AdaptConfig

RATES = {
    "spire": (0.02, 0.1, 0.5),
    "fedavg": (1e-3,),  # adapts nothing
    "fedavg_ft": (3e-4, 1e-3, 3e-3),
    "shared_rep": (1e-3, 2e-3, 5e-3),
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
    everyone = setting.train_ids + setting.new_ids
    with open_pool(setting, tracker.run_dir) as (pool, _):
        real = RealData.gather(pool, everyone, setting.mixtures, config.eval, config.seed)
        result = Result(tracker.run_id, tracker.run_dir, setting, real)
        began = time.process_time()
        weights = pretrain(result, pool, Driver, tracker, Quiet())
        pretrain_s = time.process_time() - began
    records = []
    for name in SHARES_PRETRAINING.get(config.method.name, (config.method.name,)):
        own = dataclasses.replace(config, method=dataclasses.replace(config.method, name=name))
        own_setting = prepare(own)
        with open_pool(own_setting, tracker.run_dir) as (pool, _):
            own_result = dataclasses.replace(result, setting=own_setting)
            for init in INITS.get(name, ("zero",)):
                for lr in RATES[name] if init == "zero" else RATES[name][1:2]:
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
        "adapt": {str(e): m for e, m in adaptation_metrics(result).items() if "adapt/kid/mean" in m},
        "new_clients": new_clients_table(result),
        "cross_client_diagonal_wins": _diagonal_wins(result),
    }


def _diagonal_wins(result: Result) -> float | None:
    """Return the share of clients whose own data score their samples better than anybody else's samples."""
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
        "| method | init | lr | seeds | KID before | KID after | ratio | TV before | TV after | ratio | held-out | NN train / test |"
        " trained |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (method, init, lr), rows in sorted(groups.items()):
        column = lambda key: np.mean([np.mean(r["new_clients"][key]) for r in rows])  # noqa: B023,E731
        ratio = lambda key: np.mean(  # noqa: B023,E731
            [np.mean(r["new_clients"][f"{key}_after"]) / np.mean(r["new_clients"][f"{key}_before"]) for r in rows]
        )
        lines.append(
            f"| {method} | {init if method == 'spire' else '-'} | {lr:g} | {len(rows)} | {column('kid_before'):.3f} | "
            f"{column('kid_after'):.3f} | {ratio('kid'):.2f} | {column('tv_before'):.3f} | {column('tv_after'):.3f} | "
            f"{ratio('tv'):.2f} | {column('heldout_after'):.4f} | {column('nn_train'):.2f} / {column('nn_test'):.2f} | "
            f"{rows[0]['params_trained']} |"
        )
    lines += ["", "| pre-training | seed | KID | worst | TV | own | zero | swapped | CPU-s |", "|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for r in records:
        if r["pretrain"] and r["init"] == "zero" and r["lr"] == RATES[r["method"]][0]:
            e = r["pretrain"][-1]
            losses = [e.get(f"pretrain/heldout/{k}", float("nan")) for k in ("own", "zero", "swapped")]
            lines.append(
                f"| {r['method']} | {r['seed']} | {e['pretrain/kid/mean']:.3f} | {e['pretrain/kid/worst']:.3f} | "
                f"{e['pretrain/tv/mean']:.3f} | {losses[0]:.4f} | {losses[1]:.4f} | {losses[2]:.4f} | {r['pretrain_cpu_s']:.0f} |"
            )
    return "\n".join(lines)


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
                (args.out / f"{method}-s{seed}.json").write_text(json.dumps(records, indent=1) + "\n")
                print(f"{method}, seed {seed}: done", flush=True)
    print(table(args.out))


if __name__ == "__main__":
    main()

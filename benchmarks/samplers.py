"""What few sampling steps cost in KID: a finished run's clients drawn by several samplers.

Each client is drawn from the same noise by all of them, so differences are paired; the reference is
DDPM with one step per timestep. One process, one thread. Writes one JSON and prints a table.

    python benchmarks/samplers.py RUN --out benchmarks/results/samplers.json
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cli.tables import aligned
from pipeline.config.load import load_config, overridden
from pipeline.config.meaning import fingerprint
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.files.revision import git_revision
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.record import find_run
from spire_core.errors import RunError
from spire_core.evaluation.extractors import make_extractor
from spire_core.evaluation.kid import kid, kid_floor
from spire_core.training.fit import to_float

REFERENCE = "ddpm"


def samplers(saved: SavedRun, reference_steps: int | None) -> list[tuple[str, int]]:
    """Return sampler and steps of each row: the reference, DDIM, and what the run itself takes."""
    diffusion = saved.config.diffusion
    full = reference_steps or diffusion.num_timesteps
    own = (diffusion.sampler, diffusion.sample_steps)
    rows = [(REFERENCE, full), ("ddim", 50), ("ddim", 12), ("dpmpp", 12), own]
    return list(dict.fromkeys(rows))


def chosen_clients(saved: SavedRun, setting: FederationSetup, num_old: int) -> list[int]:
    """Return the first pre-training clients and all new ones that the run holds."""
    known = set(saved.client_ids)
    if not known:
        raise RunError(
            f"expected a run of a method with personal parts, got {saved.config.method.name}: "
            "name one of spire, fedavg_ft or shared_rep"
        )
    old = [c for c in setting.eval_ids if c in known][:num_old]
    return old + [c for c in setting.new_ids if c in known]


def measure(
    saved: SavedRun,
    setting: FederationSetup,
    clients: list[int],
    num_images: int,
    rows: list[tuple],
) -> dict[str, Any]:
    """Return KID of each client under each sampler, the floors, and seconds of drawing alone."""
    config, seed = saved.config, saved.config.seed
    extractor = make_extractor(setting.extractor, config.eval.extractor_weights)
    sizes = (config.eval.kid_subset_size, config.eval.kid_num_subsets, seed)
    tests = {c: torch.from_numpy(setting.images[setting.partition.split(c).test]) for c in clients}
    real = {c: extractor.features(to_float(images)) for c, images in tests.items()}
    floors = [kid_floor(real[c], *sizes, max_images=num_images).mean for c in clients]
    found = []
    for name, steps in rows:
        diffusion = replace(config.diffusion, sampler=name, sample_steps=steps)
        drawing = replace(saved, config=replace(config, diffusion=diffusion))
        scores, draw_s = [], 0.0
        for client_id in clients:
            began = time.perf_counter()
            images = drawing.draw(client_id, num_images, seed, saved.guidance(client_id))
            draw_s += time.perf_counter() - began
            fake = extractor.features(torch.from_numpy(images))
            scores.append(kid(real[client_id], fake, *sizes).mean)
        found.append({"sampler": name, "steps": steps, "kid": scores, "draw_s": draw_s})
        print(f"{name}, {steps} steps: KID {np.mean(scores):.4g}, {draw_s:.1f} s", file=sys.stderr)
    return {"clients": clients, "kid_floor": floors, "samplers": found}


def summary(measured: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
    """Return the mean over clients of each sampler's KID and of its paired difference.

    `more_se` is the standard error of that difference over clients.
    """
    first, count = measured["samplers"][0], len(measured["clients"])
    rows = []
    for one in measured["samplers"]:
        more = np.subtract(one["kid"], first["kid"])
        rows.append(
            {
                "sampler": one["sampler"],
                "steps": one["steps"],
                "kid": float(np.mean(one["kid"])),
                "more_than_reference": float(more.mean()),
                "more_se": float(more.std(ddof=1) / count**0.5) if count > 1 else None,
                "draw_s_per_1000_images": 1000 * one["draw_s"] / (count * num_images),
            }
        )
    return rows


def table(rows: list[dict[str, Any]], floor: float) -> str:
    """Return the summary for reading."""
    header = ["sampler", "steps", "KID", "more than reference", "+- s.e.", "s per 1000 images"]
    cells = [
        [
            row["sampler"],
            str(row["steps"]),
            f"{row['kid']:.4f}",
            f"{row['more_than_reference']:+.4f}",
            "-" if row["more_se"] is None else f"{row['more_se']:.4f}",
            f"{row['draw_s_per_1000_images']:.2f}",
        ]
        for row in rows
    ]
    return f"{aligned(header, cells)}\nKID floor, real against real: {floor:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("run", metavar="RUN", help="a run's id, name or folder, or last")
    parser.add_argument("--clients", type=int, default=5, help="pre-training clients (5)")
    parser.add_argument("--images", type=int, default=256, help="drawn for each client (256)")
    text = "of the reference, DDPM (all timesteps of the process)"
    parser.add_argument("--reference-steps", type=int, help=text)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/samplers.json"))
    text = "settings of tracking.* and data.root"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    saved = SavedRun.load(find_run(args.run, load_config(None, args.overrides).tracking))
    setting = prepare(overridden(saved.config, args.overrides))
    rows = samplers(saved, args.reference_steps)
    clients = chosen_clients(saved, setting, args.clients)
    measured = measure(saved, setting, clients, args.images, rows)
    told = {
        "command": " ".join(["python", "benchmarks/samplers.py", *sys.argv[1:]]),
        "commit": git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "config_fingerprint": fingerprint(saved.config),
        "extractor": setting.extractor,
        "num_images": args.images,
        "summary": summary(measured, args.images),
        **measured,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    print(table(told["summary"], float(np.mean(measured["kid_floor"]))))


if __name__ == "__main__":
    main()

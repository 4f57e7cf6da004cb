"""What guidance does to prompts: new clients of finished runs, drawn under several pairs of scales.

Each new client is asked for the same prompts, those of its held-out images, from the same noise
under all pairs, before and after adaptation. Writes the scores of each client and prints their
means over runs. One process, one thread.

    python benchmarks/prompt_guidance.py RUN [RUN ...] --out benchmarks/results/prompt_guidance.json
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from pipeline.cli.tables import aligned
from pipeline.clients.client_data import ClientData
from pipeline.clients.text_scores import text_scores
from pipeline.config.load import load_config, overridden
from pipeline.config.meaning import fingerprint
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.files.revision import git_revision
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.record import find_run
from spire_core.diffusion.generation import Network, client_denoiser, draw
from spire_core.errors import RunError
from spire_core.evaluation.extractors import make_extractor
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.network.flat_model import FlatModel
from spire_core.rng import torch_generator

PAIRS = ((1.0, 1.0), (1.0, 2.0), (1.0, 4.0), (1.5, 2.0), (1.5, 4.0))  # of the client, of the text
SCORES = ("prompt_accuracy", "style_distance")
BEFORE, AFTER = "before", "after"


def new_clients(setting: FederationSetup) -> list[ClientData]:
    """Return the new clients of a run with text, each with its prompts."""
    if setting.tokens is None:
        raise RunError("expected a run with text, got one with model.text=none: name another")
    of_all = (setting.images, None, setting.tokens, setting.data.labels)
    return [ClientData(setting.partition.split(one), *of_all) for one in setting.new_ids]


def drawn(
    saved: SavedRun, client: ClientData, state: PrivateState, pair: tuple[float, float]
) -> Tensor:
    """Return images (n, C, H, W) for a client's prompts with its own parts, or without any."""
    guidance, text_guidance = pair
    reference: Network | None = None
    if guidance != 1.0 and not saved.config.method.record.has_embedding:
        other = FlatModel(saved.config.model, saved.config.method, saved.image_shape[0])
        other.load(saved.weights)
        reference = other.net
    emb = load_client(saved.model, saved.weights, state)
    saved.model.net.eval()
    num_images = saved.config.eval.num_images
    tokens = client.prompts(num_images)
    denoise = client_denoiser(saved.model.net, emb, guidance, reference, tokens, text_guidance)
    generator = torch_generator(saved.config.seed, "sample", client.client_id)
    return draw(denoise, saved.diffusion, saved.image_shape, num_images, generator, num_images)


def measure(saved: SavedRun, setting: FederationSetup) -> Iterator[dict[str, Any]]:
    """Yield a row for each new client, pair of scales, and state: before and after adaptation."""
    config = saved.config
    classifier = make_extractor(setting.extractor, config.eval.extractor_weights)
    for client in new_clients(setting):
        after = saved.client_state(client.client_id)
        for pair in PAIRS:
            for when, state in ((BEFORE, PrivateState()), (AFTER, after)):
                scores = text_scores(client, drawn(saved, client, state, pair), classifier)
                yield {
                    "method": config.method.name,
                    "seed": config.seed,
                    "config_fingerprint": fingerprint(config),
                    "client_id": client.client_id,
                    "guidance": pair[0],
                    "text_guidance": pair[1],
                    "when": when,
                    **{name: scores[name] for name in SCORES},
                }


def setting_of(row: dict[str, Any]) -> list[str]:
    """Return method and both scales of a row."""
    return [str(row[key]) for key in ("method", "guidance", "text_guidance")]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the means over all clients of all runs of a method, for reading."""
    header = ["method", "guidance", "text", "read before", "after", "distance before", "after"]
    cells = []
    for key, group in groupby(sorted(rows, key=setting_of), key=setting_of):
        of_group = list(group)
        means = [
            f"{fmean(row[score] for row in of_group if row['when'] == when):.3f}"
            for score in SCORES
            for when in (BEFORE, AFTER)
        ]
        cells.append([*key, *means])
    return aligned(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("runs", metavar="RUN", nargs="+", help="ids, names or folders of runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/prompt_guidance.json"))
    text = "a setting of tracking.* or data.root (may be given several times)"
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help=text)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for run in args.runs:
        saved = SavedRun.load(find_run(run, load_config(None, args.set).tracking))
        rows += measure(saved, prepare(overridden(saved.config, args.set)))
        print(f"{saved.folder.parent.name}: {len(rows)} rows so far", file=sys.stderr)
    told = {
        "command": " ".join(["python", "benchmarks/prompt_guidance.py", "RUN", "..."]),
        "commit": git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

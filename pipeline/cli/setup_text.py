"""The description of an experiment before it runs, as text and as JSON."""

import json
import shlex
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.cli.tables import aligned, duration
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.config.load import write_value, write_yaml
from pipeline.config.meaning import fingerprint
from pipeline.data.datasets import ImageData
from pipeline.federation.setup import FederationSetup
from pipeline.results.metrics import params_counts
from pipeline.runs.record import located
from spire_core.partition.coverage import Coverage, coverages
from spire_core.partition.split import NUM_SHOWN, ClientSplit, Partition

NAMES_WIDTH = 60  # letters of all classes' names
MAX_COLUMNS = 12  # classes; with more of them a client's largest are named
MAX_ROWS = 40  # clients of one kind
MAX_NAME = 28  # letters of a client's name or a caption
MAX_CAPTIONS = 2


def partition_json(partition: Partition, data: ImageData) -> dict[str, Any]:
    """Return the data of each client; of a very large population, those of its first clients.

    Clients that exist have names, and captions of their training images if the data have any.
    `world`: the average coverage of these new clients by these others, where there is any.
    """
    shown, labels, class_names = partition.shown, data.labels, data.class_names
    counts = shown.class_counts(labels, len(class_names))
    num_old, num_clients = len(shown.train_clients), len(partition.train_clients)
    clients = [
        {
            "client_id": split.client_id,
            "is_new": i >= num_old,
            "num_train": len(split.train),
            "num_test": len(split.test),
            "class_counts": counts[i].tolist(),
        }
        | ({"name": partition.names[split.client_id]} if partition.names else {})
        | ({"captions": _captions(data.captions, split)} if data.captions else {})
        for i, split in enumerate((*shown.train_clients, *shown.new_clients))
    ]
    found = coverages(counts, num_old)
    for client, one in zip(clients[num_old:], found, strict=False):
        client |= {name: round(value, 6) for name, value in vars(one).items()}
    return {
        "hash": partition.hash,
        "world": _world(found),
        "class_names": list(class_names),
        "clients": clients,
        "num_left_out": num_clients + len(partition.new_clients) - len(clients),
    }


def _world(found: Sequence[Coverage]) -> dict[str, float]:
    """Return the average of new clients' coverage, empty without any."""
    names = ("hull_tv", "nearest_tv") if found else ()
    return {name: round(fmean(getattr(one, name) for one in found), 6) for name in names}


def _captions(captions: Sequence[str], split: ClientSplit) -> list[str]:
    """Return the different captions of a client's training images."""
    return sorted({captions[int(i)] for i in split.train})


def partition_text(partition: dict[str, Any]) -> str:
    """Return `partition_json` as a table of images per client and class."""
    names, clients = partition["class_names"], partition["clients"]
    letters = max(6, NAMES_WIDTH // len(names))
    is_wide, exist = len(names) > MAX_COLUMNS, any("name" in client for client in clients)
    header = ["client", *(["name"] if exist else []), "train", "test"]
    header += ["largest classes"] if is_wide else [name[:letters] for name in names]
    header += ["captions to train on"] if exist else []
    shown, left_out = [], partition["num_left_out"]
    for is_new in (False, True):
        of_kind = [c for c in clients if c["is_new"] == is_new]
        shown += of_kind[:MAX_ROWS]
        left_out += len(of_kind[MAX_ROWS:])
    table = aligned(header, [_partition_row(c, names, is_wide) for c in shown])
    coverage = _coverage_text(partition["world"], partition["num_left_out"] > 0)
    rest = f"\n(and {left_out} more clients)" if left_out else ""
    return f"{table}{rest}{coverage}\npartition {partition['hash']}"


def _coverage_text(world: Mapping[str, float], is_part: bool) -> str:
    """Return how far new clients are from the others, "" where that is unknown.

    `is_part`: whether only the first clients count. A hull of more clients is no farther.
    """
    if not world:
        return ""
    hull, nearest = world["hull_tv"], world["nearest_tv"]
    which = f" (at most: of the first {NUM_SHOWN} clients of each kind)" if is_part else ""
    return (
        f"\nnew clients' class mixtures, on average: TV {hull:.3f} from the convex hull of the "
        f"others', {nearest:.3f} from the nearest{which}"
    )


def _partition_row(client: dict[str, Any], names: Sequence[str], is_wide: bool) -> list[str]:
    name = f"new {client['client_id']}" if client["is_new"] else str(client["client_id"])
    counts = client["class_counts"]
    cells = [str(n) if n else "." for n in counts]
    if is_wide:
        largest = sorted(range(len(counts)), key=lambda k: -counts[k])[:4]
        cells = [" ".join(f"{names[k][:10]}:{counts[k]}" for k in largest if counts[k])]
    sizes = [str(client["num_train"]), str(client["num_test"])]
    if "name" not in client:
        return [name, *sizes, *cells]
    return [name, client["name"][:MAX_NAME], *sizes, *cells, _few(client.get("captions", []))]


def _few(captions: Sequence[str]) -> str:
    """Return the first captions, and how many there are."""
    if not captions:
        return "none"
    listed = ", ".join(caption[:MAX_NAME] for caption in captions[:MAX_CAPTIONS])
    return f"{listed}{', ...' * (len(captions) > MAX_CAPTIONS)} ({len(captions)})"


def vocabulary_text(words: Sequence[str]) -> str:
    """Return the setting of `model.words` that has these words, as a shell takes it."""
    listed = write_value(list(words))
    return (
        f"the captions have {len(words)} words. model.text=words needs a vocabulary, which is "
        f"published with the model; with all of them it is\n"
        f"{shlex.quote(f'model.words={listed}')}"
    )


def setting_json(
    setting: FederationSetup, preset: str, plan: ActorPlan | None, estimate_s: float
) -> dict[str, Any]:
    """Return all that is fixed before the first round; `plan` is None without actors."""
    total, trained = params_counts(setting)
    data, config = setting.data, setting.config
    actors = None
    if plan is not None:
        actors = {
            "num_actors": plan.num_actors,
            "num_cpus": plan.num_cpus,
            "num_gpus": plan.num_gpus,
        }
    return {
        "preset": preset,
        "config": json.loads(json.dumps(config.as_dict())),  # lists for tuples, as YAML wants them
        "config_fingerprint": fingerprint(located(config)),  # as a run records it
        "images": {
            "count": len(data.labels),
            "shape": list(setting.images.shape[1:]),
            "split": data.split,
        },
        "partition": partition_json(setting.partition, data),
        "extractor": setting.extractor,
        "params_total": total,
        "params_trainable_new_client": trained,
        "params_trainable_fraction": trained / total,
        "resources": {"pool": config.resources.pool, "actors": actors},
        "estimate_s": estimate_s,
    }


def setting_text(description: dict[str, Any], plan: ActorPlan | None) -> str:
    """Return the description of `setting_json` for reading."""
    total, trained = description["params_total"], description["params_trainable_new_client"]
    images = description["images"]
    which = " of the training split" if images["split"] == "train" else ""
    where = f"resources: {plan.describe()}" if plan else "resources: this process alone"
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 100}
    return "\n\n".join(
        [
            write_yaml(description["config"], **style),
            "images of each class at each client:\n" + partition_text(description["partition"]),
            f"images: {images['count']}{which}, each "
            f"{' x '.join(map(str, images['shape']))} (channels, height, width)\n"
            f"parameters: {trained_text(trained, total)}\n"
            f"extractor: {description['extractor']}\n{where}\n"
            f"about {duration(description['estimate_s'])} on CPUs such as this machine's, by a few "
            "timed steps\n"
            f"config {description['config_fingerprint']}",
        ]
    )


def trained_text(trained: int, total: int) -> str:
    """Return the number of parameters that a new client trains, in words."""
    return f"a new client trains {trained:,} of {total:,} numbers ({100 * trained / total:.3g} %)"

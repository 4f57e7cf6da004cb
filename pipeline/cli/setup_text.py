"""An experiment before it runs, as text and as JSON: settings, who holds which data, resources."""

import json
import shlex
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pipeline.cli.tables import aligned, duration, pairs
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.config.load import write_value, write_yaml
from pipeline.config.meaning import fingerprint
from pipeline.data.datasets import ImageData
from pipeline.federation.setup import FederationSetup
from pipeline.results.metrics import params_counts
from pipeline.runs.record import located
from spire_core.partition.coverage import coverages
from spire_core.partition.split import NUM_SHOWN, Partition

NAMES_WIDTH = 60  # letters of all classes' names
MAX_COLUMNS = 12  # classes; with more of them a client's largest are named
WORLD = ("hull_tv", "nearest_tv")


def partition_json(partition: Partition, data: ImageData) -> dict[str, Any]:
    """Return the data of each client; of a very large population, those of its first clients.

    Clients that exist have names, and captions of their training images if the data have any.
    `world`: the average coverage of these new clients by these others, where there is any.
    """
    shown = partition.shown
    counts = shown.class_counts(data.labels, len(data.class_names))
    num_old = len(shown.train_clients)
    clients = list[dict[str, Any]]()
    for i, split in enumerate((*shown.train_clients, *shown.new_clients)):
        sizes = {"num_train": len(split.train), "num_test": len(split.test)}
        client = {"client_id": split.client_id, "is_new": i >= num_old, **sizes}
        client["class_counts"] = counts[i].tolist()
        if partition.names:
            client["name"] = partition.names[split.client_id]
        if data.captions:
            client["captions"] = sorted({data.captions[int(i)] for i in split.train})
        clients.append(client)
    found = [vars(one) for one in coverages(counts, num_old)]
    for client, one in zip(clients[num_old:], found, strict=False):
        client |= {name: round(value, 6) for name, value in one.items()}
    num_clients = len(partition.train_clients) + len(partition.new_clients)
    return {
        "hash": partition.hash,
        "world": {name: round(fmean(one[name] for one in found), 6) for name in WORLD if found},
        "class_names": list(data.class_names),
        "clients": clients,
        "num_left_out": num_clients - len(clients),
    }


def partition_text(partition: dict[str, Any]) -> str:
    """Return `partition_json` as a table of images per client and class."""
    names, clients, world = partition["class_names"], partition["clients"], partition["world"]
    letters = max(6, NAMES_WIDTH // len(names))
    is_wide, exist = len(names) > MAX_COLUMNS, any("name" in client for client in clients)
    header = ["client", *["name"] * exist, "train", "test"]
    header += ["largest classes"] if is_wide else [name[:letters] for name in names]
    header += ["captions to train on"] * exist
    rows = list[list[str]]()
    for client in clients:
        counts, captions = client["class_counts"], client.get("captions", [])
        row = ["new " * client["is_new"] + str(client["client_id"])]
        row += [client.get("name", "")] * exist
        row += [str(client["num_train"]), str(client["num_test"])]
        largest = sorted(range(len(counts)), key=lambda k: -counts[k])[:4]
        listed = " ".join(f"{names[k][:10]}:{counts[k]}" for k in largest if counts[k])
        row += [listed] if is_wide else [str(n or ".") for n in counts]
        rows.append(row + [f"{', '.join(captions[:2])} ({len(captions)})"] * exist)
    text, num_left_out = aligned(header, rows), partition["num_left_out"]
    text += f"\n(and {num_left_out} more clients)" * bool(num_left_out)
    if world:  # of a part of the clients an upper limit: a hull of more of them is no farther
        some = f" (at most: of the first {NUM_SHOWN} clients of each kind)" if num_left_out else ""
        text += (
            f"\nnew clients' class mixtures, on average: TV {world['hull_tv']:.3f} from the convex "
            f"hull of the others', {world['nearest_tv']:.3f} from the nearest{some}"
        )
    return f"{text}\npartition {partition['hash']}"


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
    data, config, actors = setting.data, setting.config, None
    if plan is not None:
        actors = {name: getattr(plan, name) for name in ("num_actors", "num_cpus", "num_gpus")}
    images = {"count": len(data.labels), "shape": list(setting.images.shape[1:])}
    images["split"] = data.split
    return {
        "preset": preset,
        "config": json.loads(json.dumps(config.as_dict())),  # lists for tuples, as YAML wants them
        "config_fingerprint": fingerprint(located(config)),  # as a run records it
        "images": images,
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
    images, trained = description["images"], description["params_trainable_new_client"]
    which = " of the training split" if images["split"] == "train" else ""
    shape = " x ".join(map(str, images["shape"]))
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 100}
    settings = write_yaml(description["config"], **style)
    facts = {
        "images": f"{images['count']}{which}, each {shape} (channels, height, width)",
        "parameters": trained_text(trained, description["params_total"]),
        "extractor": description["extractor"],
        "resources": plan.describe() if plan else "this process alone",
        "duration": f"about {duration(description['estimate_s'])} on CPUs such as this machine's",
        "config": description["config_fingerprint"],
    }
    title = "images of each class at each client:"
    parts = [settings, f"{title}\n{partition_text(description['partition'])}", pairs(facts)]
    return "\n\n".join(parts)


def trained_text(trained: int, total: int) -> str:
    """Return the number of parameters that a new client trains, in words."""
    return f"a new client trains {trained:,} of {total:,} numbers ({100 * trained / total:.3g} %)"

"""The answers of verbs as text and as JSON: an experiment before and after it runs, an arrival."""

import json
from dataclasses import asdict
from statistics import fmean
from typing import Any

from pipeline.cli.tables import listing, table
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.config.load import write_yaml
from pipeline.config.meaning import fingerprint
from pipeline.config.tracking import ui_text
from pipeline.data.datasets import ImageData
from pipeline.federation.setup import FederationSetup
from pipeline.inference.arrival import Arrival
from pipeline.results.files import result_json
from pipeline.results.metrics import params_counts
from pipeline.results.result import Result
from pipeline.results.tables import new_clients
from pipeline.runs.record import experiment_of
from spire_core.partition.coverage import coverages
from spire_core.partition.split import Partition

# The columns, by their titles, that a terminal has room for; MLflow has the others.
ROUNDS = {"round": "round", "KID": "pretrain/kid/mean", "worst": "pretrain/kid/worst"}
ROUNDS |= {"TV": "pretrain/tv/mean", "held-out own": "pretrain/heldout/own"}
ROUNDS |= {"zero": "pretrain/heldout/zero", "swapped": "pretrain/heldout/swapped"}
NEW_CLIENTS = {"client": "client_id", "KID before": "kid_before", "after": "kid_after"}
NEW_CLIENTS |= {"floor": "kid_floor", "epoch": "kept_epoch", "TV before": "tv_before"}
NEW_CLIENTS |= {"TV after": "tv_after", "held-out before": "heldout_before"}
NEW_CLIENTS |= {"held-out after": "heldout_after", "NN train": "nn_train", "NN test": "nn_test"}
IN_JSON_ALONE = ("run_id", "metrics", "preset", "ui_command", "config_fingerprint")
IN_JSON_ALONE += ("state_fingerprint", "partition_hash")
MAX_CLASSES = 12  # of a client that are listed, the largest first
WORLD = ("hull_tv", "nearest_tv")


def partition_json(partition: Partition, data: ImageData) -> dict[str, Any]:
    """Return the data of each client; of a very large population, those of its first clients.

    Clients that exist have names, and captions of their training images if the data have any.
    `world`: the average coverage of these new clients by these others, where there is any.
    """
    shown, clients = partition.shown, list[dict[str, Any]]()
    counts = shown.class_counts(data.labels, len(data.class_names))
    num_old = len(shown.train_clients)
    for split, own in zip((*shown.train_clients, *shown.new_clients), counts, strict=True):
        client = {"client_id": split.client_id, "is_new": len(clients) >= num_old}
        client |= {"num_train": len(split.train), "num_test": len(split.test)}
        client["class_counts"] = own.tolist()
        if partition.names:
            client["name"] = partition.names[split.client_id]
        if data.captions:
            client["captions"] = sorted({data.captions[i] for i in split.train})
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
    rows = []
    for client in partition["clients"]:
        row = {"client": "new " * client["is_new"] + str(client["client_id"])}
        row |= {key: client[key] for key in ("name", "num_train", "num_test") if key in client}
        held = sorted(zip(client["class_counts"], partition["class_names"], strict=True))[::-1]
        row["images of classes"] = ", ".join(f"{k}: {n}" for n, k in held[:MAX_CLASSES] if n)
        if captions := client.get("captions"):
            row["captions to train on"] = f"{', '.join(captions[:2])} ({len(captions)})"
        rows.append(row)
    # Of a part of the clients the coverage is an upper limit: a hull of more of them is no farther.
    others = {key: partition[key] for key in ("world", "num_left_out", "hash")}
    return f"{table(rows)}\n\n{listing(others)}"


def setting_json(
    setting: FederationSetup, preset: str, plan: ActorPlan | None, estimate_s: float
) -> dict[str, Any]:
    """Return all that is fixed before the first round; `plan` is None without actors."""
    total, trained = params_counts(setting)
    data, config, shape = setting.data, setting.config, list(setting.images.shape[1:])
    return {
        "preset": preset,
        "config": json.loads(json.dumps(config.as_dict())),  # lists for tuples, as YAML wants them
        "config_fingerprint": fingerprint(config),
        "images": {"count": len(data.labels), "shape": shape, "split": data.split},
        "partition": partition_json(setting.partition, data),
        "extractor": setting.extractor,
        "params_total": total,
        "params_trainable_new_client": trained,
        "params_trainable_fraction": trained / total,
        "resources": {"pool": config.resources.pool, "actors": plan and asdict(plan)},
        "estimate_s": estimate_s,
    }


def setting_text(description: dict[str, Any]) -> str:
    """Return the description of `setting_json` for reading."""
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 100}
    others = {key: description[key] for key in description if key not in ("config", "partition")}
    settings = write_yaml(description["config"], **style)
    return "\n\n".join([settings, partition_text(description["partition"]), listing(others)])


def result_table(result: Result) -> str:
    """Return the text at the end of a run: scores, floors, diagnoses and file locations."""
    config = result.setting.config
    subset_size, tracking = config.eval.kid_subset_size, config.tracking
    clients = new_clients(result.adaptation, result.real, subset_size).to_dict("records")
    for row in clients:
        row["client_id"] = result.setting.partition.name_of(row["client_id"]) or row["client_id"]
    evaluations = result.pretraining.evaluations
    rows = [{"round": one.round_idx} | one.metrics() for one in evaluations]
    parts = [f"pre-training clients\n{table(rows, ROUNDS)}"] if rows else []
    parts += [f"new clients\n{table(clients, NEW_CLIENTS)}"] if clients else []
    told, floor = result_json(result, None), result.metrics.get("final/pretrain_kid_floor")
    values = {"pretrain_kid_floor": floor, "privacy": result.promise or None}
    values |= {"run": result.run_dir.name} | {k: told[k] for k in told if k not in IN_JSON_ALONE}
    parts.append(listing(values))
    if tracking.enabled:
        parts.append(f"look at it all  {ui_text(tracking, experiment_of(result.run_dir))}")
    return "\n\n".join(parts)


def arrival_json(arrival: Arrival) -> dict[str, Any]:
    """Return the result of an arrived client's adaptation as plain values."""
    names = ("client_id", "name", "num_train", "num_test", "num_trained", "kept_epoch", "guidance")
    values = {name: value for name in names if (value := getattr(arrival, name)) is not None}
    values["curve"] = [
        {"epoch": one.epoch, "train_loss": one.train_loss, "val_loss": one.val_loss}
        | dict(one.observed or {})
        for one in arrival.curve
    ]
    values["diagnoses"] = [] if arrival.diagnosis is None else [arrival.diagnosis.as_dict()]
    if arrival.guarantee is not None:
        values["privacy"] = arrival.guarantee.as_values()
    places = {"client": str(arrival.path), "samples": str(arrival.grid_path)}
    return values | {"artifacts": places}

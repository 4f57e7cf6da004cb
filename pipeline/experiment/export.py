"""The export of a run's models: backbone and clients' own parts, with one fingerprint of all."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.clients.store import ClientStore
from pipeline.config.data import DATASETS
from pipeline.config.schema import Config
from pipeline.data.datasets import is_class
from pipeline.federation.pool import ClientPool
from pipeline.federation.rounds import promise_to_clients
from pipeline.federation.setup import MANY_CLIENTS, FederationSetup
from pipeline.files.atomic import sync_tree
from pipeline.runs.layout import CLIENTS, MODEL
from pipeline.runs.model_files import CONFIG, save_run
from spire_core.network.flat_model import tensors_hash


def export_models(
    setting: FederationSetup, pool: ClientPool, weights: np.ndarray, run_dir: Path
) -> str:
    """Write the backbone (P,) and clients' own parts to the run's folder; return a fingerprint.

    The configuration is written last, and one of an earlier export deleted first: a model that has
    one is whole. With private rounds the fingerprint is none of pre-training clients' own parts.
    Where anything is private, no hash of the clients' images stands beside the backbone.
    """
    folder = run_dir / MODEL
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    for part in folder.rglob("*.part"):  # of a process that was killed as it wrote
        part.unlink(missing_ok=True)
    published = ["backbone_sha256", "text_sha256"]
    published += [] if setting.config.privacy.is_on else ["partition_hash"]
    extra = {
        "image_shape": list(setting.images.shape[1:]),
        "class_names": published_classes(setting.config, setting.data.class_names),
        **{name: found for name, found in setting.hashes.items() if name in published},
    }
    promise = promise_to_clients(setting.config)
    texts = None if promise is None else promise.as_texts()
    client_ids = [*exported_ids(setting, run_dir), *setting.new_ids]
    hashes = pool.run_all("export", client_ids, folder)
    sync_tree(folder)
    save_run(folder, setting.config, setting.model, weights, extra, texts)
    hashed = set(client_ids if promise is None else setting.new_ids)
    digest = hashlib.sha256(tensors_hash({"backbone": torch.tensor(weights)}).encode())
    for client_id, client_hash in zip(client_ids, hashes, strict=True):
        if client_id in hashed:
            digest.update(f"{client_id}:{client_hash}".encode())
    return digest.hexdigest()


def published_classes(config: Config, class_names: Sequence[str]) -> list[str]:
    """Return the class names that stand beside the backbone.

    Where anything is private, those of people's own data are left out: a class may be one client's
    alone. The settings are public, and so are the classes that they hide from new clients.
    """
    if not config.privacy.is_on or config.data.name in DATASETS:
        return list(class_names)
    hidden = (*config.partition.hidden, *config.partition.hidden_from_new)
    return [name for name in class_names if any(is_class(one, [name]) for one in hidden)]


def exported_ids(setting: FederationSetup, run_dir: Path) -> Sequence[int]:
    """Return the pre-training clients whose own parts are exported: all that may hold any.

    In a large population those that took part: the others are a function of the seed. Without
    rounds none has trained an embedding.
    """
    method = setting.config.method.record
    if method.has_embedding and not method.is_federated:
        return ()
    if len(setting.train_ids) <= MANY_CLIENTS:
        return setting.train_ids
    seen = ClientStore(run_dir / CLIENTS).rounds_seen(setting.config.federation.num_rounds)
    return [client_id for client_id in seen if client_id in setting.train_ids]

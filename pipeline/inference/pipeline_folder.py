"""A client of a finished run as a pipeline of diffusers, in a folder like `model.backbone`."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pipeline.inference.saved_run import SavedRun
from spire_core.errors import RunError
from spire_core.federated.private_state import load_client
from spire_core.network.diffusers_names import numbers_of, settings_of
from spire_core.network.pretrained import PretrainedNet, fold
from spire_core.network.unet import TimeSplit
from spire_core.pretrained.folder import INDEX, PROMPT
from spire_core.pretrained.networks import OWN_UNET
from spire_core.pretrained.own_folder import copy_code, write_own
from spire_core.training.several import is_table

WEIGHTS = "weights.json"  # of several embeddings, in their order


def write_pipeline(run: SavedRun, client_id: int | None, folder: Path) -> None:
    """Write a client, or the population, as a folder that diffusers loads, and `model.backbone`.

    Our own pipeline draws one of several embeddings for each image. Pipelines of pre-trained models
    cannot: such a client gets a folder for each embedding, by its number, and `weights.json`.
    RunError for an unknown client, a folder that is not empty, and a network that diffusers lacks.
    """
    state = run.client_state(client_id)
    if run.config.method.record.network is not None or isinstance(run.model.net, TimeSplit):
        raise RunError(
            f"expected one U-Net or a pre-trained network, got the network of "
            f"{run.config.method.name}, which diffusers lacks: draw with spire sample"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"expected a new folder, got {folder}, which is there: name another")
    part = load_client(run.model, run.weights, state)
    net, (channels, _, size), embs, weights = run.model.net, run.image_shape, part, None
    if part is not None and is_table(part):
        embs, weights = part[:, :-1], part[:, -1].tolist()
    if not isinstance(net, PretrainedNet):
        settings, numbers = settings_of(net, channels, size), numbers_of(net, embs)
        write_own(folder, settings, numbers, run.config.diffusion, weights)
    elif embs is None or weights is None:
        _write_retrofitted(net, embs, folder)
    else:
        for number, emb in enumerate(embs):
            load_client(run.model, run.weights, state)  # the last one is inside the network
            _write_retrofitted(net, emb, folder / str(number))
        (folder / WEIGHTS).write_text(json.dumps(weights) + "\n")


def _write_retrofitted(net: PretrainedNet, client_emb: Tensor | None, folder: Path) -> None:
    """Write the network with the client in it; all other parts are copies of the backbone's."""
    network, prompt = fold(net, client_emb)
    source = net.folder
    network.save_pretrained(folder / source.part)  # type: ignore[operator]
    named = json.loads((source.path / INDEX).read_bytes()).keys() - {source.part}
    for part in source.path.iterdir():  # scheduler, autoencoder, text encoder, ...
        if part.name in named and part.is_dir():
            shutil.copytree(part, folder / part.name)
    shutil.copy2(source.path / INDEX, folder / INDEX)
    if source.class_name == OWN_UNET:
        copy_code(folder, has_own_unet=True)
    if prompt is not None:
        save_file({"encoder_hidden_states": prompt.contiguous()}, folder / PROMPT)

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
from spire_core.pretrained.folder import INDEX, PROMPT
from spire_core.pretrained.networks import OWN_UNET
from spire_core.pretrained.own_folder import copy_code, write_own
from spire_core.training.several import is_table

WEIGHTS = "weights.json"  # of several embeddings, in their order


def write_pipeline(run: SavedRun, client_id: int | None, folder: Path) -> None:
    """Write a client, or the population, as a folder that diffusers loads, and `model.backbone`.

    A client with several embeddings gets a folder for each, by its number, and `weights.json`.
    RunError for an unknown client, and for a folder that is not empty.
    """
    state = run.client_state(client_id)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"expected a new folder, got {folder}, which is there: name another")
    part = load_client(run.model, run.weights, state)
    if part is None or not is_table(part):
        _write(run, part, folder)
        return
    for number, emb in enumerate(part[:, :-1]):
        load_client(run.model, run.weights, state)  # the last one is inside the network's biases
        _write(run, emb, folder / str(number))
    (folder / WEIGHTS).write_text(json.dumps(part[:, -1].tolist()) + "\n")


def _write(run: SavedRun, client_emb: Tensor | None, folder: Path) -> None:
    net, (channels, _, size) = run.model.net, run.image_shape
    if isinstance(net, PretrainedNet):
        _write_retrofitted(net, client_emb, folder)
    else:
        settings, numbers = settings_of(net, channels, size), numbers_of(net, client_emb)
        write_own(folder, settings, numbers, run.config.diffusion)


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

"""A client of a finished run as a pipeline of diffusers, in a folder like `model.backbone`."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pipeline.inference.saved_run import SavedRun
from spire_core.errors import RunError
from spire_core.federated.private_state import load_client
from spire_core.network.diffusers_names import numbers_of, settings_of
from spire_core.network.folding import fold
from spire_core.network.pretrained import PretrainedNet
from spire_core.network.unet import UNet
from spire_core.pretrained.folder import INDEX, OWN_UNET, PROMPT, read_settings
from spire_core.pretrained.own_folder import Sampling, copy_code, write_own


def write_pipeline(run: SavedRun, client_id: int | None, folder: Path) -> None:
    """Write a client, or the population, as a folder that diffusers loads, and `model.backbone`.

    RunError for an unknown client, and for a folder that is not empty. What fails leaves nothing.
    """
    state = run.client_state(client_id)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"expected a new folder, got {folder}, which is there: name another")
    net, client_emb = run.model.net, load_client(run.model, run.weights, state)
    with _whole(folder):
        if isinstance(net, PretrainedNet):
            _write_retrofitted(net, client_emb, folder)
        else:
            _write_own(run, net, client_emb, folder)


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Remove what the block has written into a new or empty folder, if it raises."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        for path in list(folder.iterdir()) if folder.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if is_new and folder.is_dir():
            folder.rmdir()
        raise


def _write_own(run: SavedRun, net: UNet, client_emb: Tensor | None, folder: Path) -> None:
    channels, _, size = run.image_shape
    values = dataclasses.asdict(run.config.diffusion)
    words = [field.name for field in dataclasses.fields(Sampling)]
    sampling = Sampling(**{word: values[word] for word in words})
    write_own(folder, settings_of(net, channels, size), numbers_of(net, client_emb), sampling)


def _write_retrofitted(net: PretrainedNet, client_emb: Tensor | None, folder: Path) -> None:
    network, prompt = fold(net, client_emb)
    source = net.folder
    network.save_pretrained(folder / source.part)  # type: ignore[operator]
    index = read_settings(source.path / INDEX)
    for part in sorted(index.keys() - {source.part}):  # scheduler, autoencoder, text encoder, ...
        if part.isidentifier() and (source.path / part).is_dir():
            shutil.copytree(source.path / part, folder / part)
    shutil.copy2(source.path / INDEX, folder / INDEX)
    if source.class_name == OWN_UNET:
        copy_code(folder, has_own_unet=True)
    if prompt is not None:
        save_file({"encoder_hidden_states": prompt.contiguous()}, folder / PROMPT)

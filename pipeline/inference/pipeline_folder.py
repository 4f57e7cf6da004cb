"""A client of a finished run as a pipeline of diffusers, in a folder like `model.backbone`."""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from pipeline.inference.saved_run import SavedRun
from spire_core.errors import RunError
from spire_core.federated.private_state import load_client
from spire_core.network.folding import fold
from spire_core.network.pretrained import PretrainedNet
from spire_core.pretrained.folder import INDEX, PROMPT


def write_pipeline(run: SavedRun, client_id: int | None, folder: Path) -> None:
    """Write a client, or the population, as a folder that diffusers loads, and `model.backbone`.

    RunError for a run on our own U-Net, for an unknown client, and for a folder that is not empty.
    """
    net = run.model.net
    if not isinstance(net, PretrainedNet):
        raise RunError(
            "expected a run with model.backbone, got one on our own U-Net, whose numbers no "
            "UNet2DModel of diffusers can hold (docs/retrofit.md says why): name another run"
        )
    state = run.client_state(client_id)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"expected a new folder, got {folder}, which is there: name another")
    network, prompt = fold(net, load_client(run.model, run.weights, state))
    source = net.folder
    network.save_pretrained(folder / source.part)  # type: ignore[operator]
    shutil.copytree(source.path / "scheduler", folder / "scheduler")
    shutil.copy2(source.path / INDEX, folder / INDEX)
    if prompt is not None:
        save_file({"encoder_hidden_states": prompt.contiguous()}, folder / PROMPT)

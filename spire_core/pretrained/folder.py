"""The folder of a pre-trained pipeline, as `DiffusionPipeline.save_pretrained` writes it.

`model_index.json` names the parts; each has a folder of its own. The library diffusers reads them,
safetensors alone. `prompt.safetensors` is ours: the text encoder's output as the tensor
`encoder_hidden_states`, for models that attend to text.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spire_core.errors import ConfigError, first_line
from spire_core.pretrained.networks import NETWORKS, OWN_UNET

INDEX, PROMPT = "model_index.json", "prompt.safetensors"
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}  # diffusers' name: ours
LEAST = 2.0**-24  # of alpha_bar, as diffusers takes it where a schedule ends in pure noise
MOST = 1 - LEAST  # the float32 below 1: at 1 there would be no noise to divide by


@dataclass(frozen=True)
class BackboneFolder:
    """A pipeline's folder: the part that is the network, its class, and the autoencoder's part.

    `autoencoder_part` makes the latents that the network predicts, None for a model of pixels.
    """

    path: Path
    part: str
    class_name: str
    autoencoder_part: str | None = None

    @property
    def network(self) -> Path:
        """The network's own folder."""
        return self.path / self.part

    @property
    def sha256(self) -> str:
        """The hash of all that is read: settings, weights and prompt, by name, in order."""
        files = [f for f in (self.path / INDEX, self.path / PROMPT) if f.is_file()]
        for part in filter(None, (self.part, "scheduler", self.autoencoder_part)):
            inside = sorted((self.path / part).glob("*"))
            files += [f for f in inside if f.suffix in (".json", ".safetensors")]
        digest = hashlib.sha256()
        for file in files:
            name, state = file.relative_to(self.path).as_posix(), file.stat()
            digest.update(f"{name}:{_file_hash(file, state.st_size, state.st_ctime_ns)}\n".encode())
        return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _file_hash(file: Path, size: int, changed_ns: int) -> str:
    """Return the hash of a file, which a process reads once as long as it does not change."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def open_backbone(path: str | Path) -> BackboneFolder:
    """Return what a folder holds; ConfigError if it is no pipeline, or of an unknown network."""
    path = Path(path)
    expected = "the folder of a pipeline, as diffusers' save_pretrained writes it, as"
    with one_line(f"{expected} model.backbone, with {INDEX}", path):
        index = json.loads((path / INDEX).read_bytes())
        classes = {name: entry[1] for name, entry in index.items() if isinstance(entry, list)}
        found = [name for name, class_name in classes.items() if class_name in NETWORKS]
        if len(found) != 1:
            raise ValueError(f"{classes} for one network of {', '.join(NETWORKS)}")
    autoencoder = next((part for part in ("vae", "vqvae") if part in classes), None)
    return BackboneFolder(path, found[0], classes[found[0]], autoencoder)


def check_same(path: str | Path, sha256: object) -> None:
    """Raise ConfigError unless the folder here is the one of a hash.

    Frozen numbers are in no message, so that nodes with different ones would train apart unseen.
    """
    if open_backbone(path).sha256 != sha256:
        raise ConfigError(
            f"expected the run's pre-trained model at {path}, got another (by its hash): put the "
            "run's own there, on every node"
        )


@contextlib.contextmanager
def one_line(expected: str, path: Path) -> Iterator[None]:
    """Turn an error of reading a folder into a ConfigError of one line.

    diffusers reads settings unchecked, and fails in many ways.
    """
    try:
        yield
    except (ConfigError, MemoryError):
        raise
    except Exception as error:
        raise ConfigError(
            f"expected {expected} in {path}, got {first_line(error)[:300]}: choose another "
            "model.backbone or save it again (docs/retrofit.md)"
        ) from error


def library() -> Any:
    """Return the package diffusers; ConfigError if it is not installed."""
    try:
        import diffusers  # lazy: a run without model.backbone needs none of it
    except ImportError as error:
        raise ConfigError(
            "expected the package diffusers for model.backbone, got none: "
            "pip install 'diffusers>=0.35,<1'"
        ) from error
    return diffusers


def load_network(folder: BackboneFolder) -> nn.Module:
    """Return the network of a folder in float32; ConfigError if its weights are not its own."""
    diffusers = library()
    if folder.class_name != OWN_UNET:
        return load_part(getattr(diffusers, folder.class_name), folder.network)
    from spire_core.pretrained.spire_unet import SpireUNet  # lazy: needs diffusers

    return load_part(SpireUNet, folder.network)  # not the folder's copy of its code


def load_part(model_class: Any, part: Path) -> nn.Module:
    """Return a model of diffusers from its own folder, in float32 and evaluation mode.

    ConfigError if its weights are not its own: diffusers draws missing ones at random.
    """
    with one_line(f"a {model_class.__name__} of diffusers with weights as safetensors", part):
        model, found = model_class.from_pretrained(
            part,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
        for kind in ("missing", "unexpected"):
            if names := found[f"{kind}_keys"]:
                raise ValueError(f"{len(names)} {kind} tensors such as {min(names)}")
    return model.eval()


def load_prompt(folder: BackboneFolder) -> Tensor:
    """Return the prompt's tokens (1, L, D); ConfigError if there are none."""
    name = "encoder_hidden_states"
    with one_line(f"the text encoder's output of one prompt, {name} (1, L, D)", folder.path):
        return load_file(folder.path / PROMPT)[name].float()


def load_schedule(folder: BackboneFolder) -> tuple[Tensor, str]:
    """Return alpha_bar (T,) float32 as a folder's scheduler has it, and our name of its prediction.

    ConfigError for a scheduler of another process than DDPM's, or another prediction type.
    """
    path = folder.path / "scheduler"
    with one_line(f"a scheduler with alphas_cumprod that predicts {', '.join(PREDICTIONS)}", path):
        name = json.loads((path / "scheduler_config.json").read_bytes())["_class_name"]
        scheduler = getattr(library(), name).from_pretrained(path, local_files_only=True)
        kind = scheduler.config.get("prediction_type", "epsilon")
        return scheduler.alphas_cumprod.float().clamp(LEAST, MOST), PREDICTIONS[kind]

"""The folder of a pre-trained pipeline, as `DiffusionPipeline.save_pretrained` writes it.

`model_index.json` names the parts; each has a folder of its own. Only settings and safetensors are
read, never a pickle, and no code of a folder runs. `prompt.safetensors` is ours: the text encoder's
output, as the tensor `encoder_hidden_states`, for models that attend to text.
"""

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spire_core.errors import ConfigError

INDEX, PROMPT = "model_index.json", "prompt.safetensors"
OWN_UNET = "SpireUNet"  # of exported runs
CLASSES = {  # of networks, by the name of their part
    "unet": ("UNet2DModel", "UNet2DConditionModel", OWN_UNET),
    "transformer": ("DiTTransformer2DModel", "PixArtTransformer2DModel"),
}
AUTOENCODERS = {"vae": "AutoencoderKL", "vqvae": "AutoencoderKL"}  # classes by names of parts
WEIGHTS = "diffusion_pytorch_model*.safetensors"
SHARDS = "diffusion_pytorch_model.safetensors.index.json"  # which files diffusers loads, if it is
MAX_HEADER = 100_000_000  # bytes, as safetensors has it
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class BackboneFolder:
    """A folder that can be loaded: the part that is the network, and its class.

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
    def autoencoder(self) -> Path | None:
        """The autoencoder's own folder."""
        return None if self.autoencoder_part is None else self.path / self.autoencoder_part

    @property
    def weight_files(self) -> list[Path]:
        """The network's safetensors, one file or its shards, and the autoencoder's."""
        return [file for part in self._parts for file in _weight_files(part)]

    @property
    def _parts(self) -> list[Path]:
        return [self.network, *([self.autoencoder] if self.autoencoder else [])]

    @property
    def prompt(self) -> Path | None:
        """The file of the text encoder's output, if there is one."""
        path = self.path / PROMPT
        return path if path.is_file() else None

    @property
    def sha256(self) -> str:
        """The hash of all that is read: settings, weights and prompt, by name, in order."""
        settings = [self.path / INDEX, *(part / "config.json" for part in self._parts)]
        settings += [self.path / "scheduler" / "scheduler_config.json"]
        prompt = [self.prompt] if self.prompt else []
        return self._hash_of([*settings, *self.weight_files, *prompt])

    @property
    def autoencoder_sha256(self) -> str:
        """The hash of the autoencoder's settings and weights alone."""
        assert self.autoencoder is not None
        return self._hash_of([self.autoencoder / "config.json", *_weight_files(self.autoencoder)])

    def _hash_of(self, files: Sequence[Path]) -> str:
        digest = hashlib.sha256()
        for file in files:
            state = file.stat()
            inside = _file_hash(file, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            digest.update(f"{file.relative_to(self.path).as_posix()}:{inside}\n".encode())
        return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _file_hash(file: Path, *state: int) -> str:
    """Return the hash of a file, which a process reads once as long as it does not change."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def check_room(part: Path) -> None:
    """Raise ConfigError unless there is room for a part's weights and its network of float32."""
    import psutil  # lazy: a logged model without a backbone needs none

    need = sum(file.stat().st_size + 4 * _num_numbers(file) for file in _loaded_files(part))
    free = psutil.virtual_memory().available
    if need > free:
        raise ConfigError(
            f"expected memory for the weights in {part}, got {need / 2**20:.0f} MiB to load, "
            f"{free / 2**20:.0f} MiB free: choose a smaller model.backbone or a larger machine"
        )


def _weight_files(part: Path) -> list[Path]:
    """Return the files of weights of a part, with variants of them."""
    return sorted(file for file in part.glob(WEIGHTS) if file.is_file())


def _loaded_files(part: Path) -> list[Path]:
    """Return the files of weights that are loaded, one or its shards, without variants of them."""
    return [file for file in _weight_files(part) if file.name.count(".") == 1]


def _num_numbers(file: Path) -> int:
    """Return how many numbers a file of safetensors holds; of a damaged one, as float32."""
    try:
        with file.open("rb") as content:
            size = min(int.from_bytes(content.read(8), "little"), MAX_HEADER)
            tensors = json.loads(content.read(size))
        return sum(math.prod(t["shape"]) for name, t in tensors.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        return file.stat().st_size // 4


def read_settings(path: Path) -> dict[str, Any]:
    """Return a JSON object of a folder; ConfigError if the file is missing or damaged."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        kind = "no file" if isinstance(error, FileNotFoundError) else "no readable JSON"
        advice = f"name the folder that holds {INDEX}"
        if path.name == INDEX and not path.parent.exists():
            advice = f"no model is downloaded, so {advice} on this machine (docs/retrofit.md)"
        raise ConfigError(
            f"expected a pipeline's folder, as diffusers' save_pretrained writes it, as "
            f"model.backbone, got {kind} at {path}: {advice}"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"expected a JSON object in {path}, got {type(values).__name__}: save the pipeline "
            "again"
        )
    return values


def open_backbone(path: str | Path) -> BackboneFolder:
    """Return what a folder holds; ConfigError in one sentence if it cannot be loaded here."""
    path = Path(path)
    index = read_settings(path / INDEX)
    entries = {name: entry for name, entry in index.items() if not name.startswith("_")}
    parts = {name: entry[1] for name, entry in entries.items() if _is_part(entry)}
    known = {c: part for part, classes in CLASSES.items() for c in classes}
    found = [(part, parts[part]) for part in CLASSES if part in parts]
    if len(found) != 1 or known.get(found[0][1]) != found[0][0]:
        named = ", ".join(f"{part}: {name}" for part, name in parts.items()) or "no part"
        raise ConfigError(
            f"expected one network of {', '.join(known)} in {path / INDEX}, got {named}: choose "
            "another model.backbone"
        )
    folder = BackboneFolder(path, *found[0], _autoencoder(path, parts))
    for part in folder._parts:
        _check_weights(part)
    return folder


def check_same(path: str | Path, sha256: str) -> None:
    """Raise ConfigError unless the folder here is the one of a hash.

    Frozen numbers are in no message, so that nodes with different ones would train apart unseen.
    """
    if open_backbone(path).sha256 != sha256:
        raise ConfigError(
            f"expected the run's pre-trained model at {path}, got another (by its hash): put the "
            "same folder on every node"
        )


def _autoencoder(path: Path, parts: dict[str, str]) -> str | None:
    """Return the name of the part that is an autoencoder, None for a model of pixels."""
    for part, class_name in AUTOENCODERS.items():
        if part in parts and parts[part] != class_name:
            raise ConfigError(
                f"expected an {class_name} as the autoencoder of a model of latents, got a "
                f"{parts[part]} in {path / INDEX}: choose another model.backbone"
            )
    return next((part for part in AUTOENCODERS if part in parts), None)


def _is_part(entry: object) -> bool:
    """Return whether an entry of the index names a class of diffusers: [library, class]."""
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    return all(isinstance(name, str) for name in entry)


def _check_weights(part: Path) -> None:
    if not _weight_files(part):
        pickles = [f.name for kind in PICKLES for f in sorted(part.glob(kind))]
        found = f"{pickles[0]} alone, a pickle, which can run code" if pickles else "none"
        raise ConfigError(
            f"expected weights as safetensors in {part}, got {found}: save the model "
            "with save_pretrained(..., safe_serialization=True)"
        )
    if (part / SHARDS).is_file():
        _check_shards(part)


def _check_shards(part: Path) -> None:
    """Raise ConfigError unless an index of shards names the files that are hashed, and all of them.

    diffusers opens whatever it names, a pickle too.
    """
    weight_map, got = read_settings(part / SHARDS).get("weight_map"), "no weight_map of names"
    if isinstance(weight_map, dict) and all(isinstance(n, str) for n in weight_map.values()):
        named, files = {*weight_map.values()}, {file.name for file in _loaded_files(part)}
        if named == files:
            return
        unknown = named - files
        got = f"{min(unknown)!r:.80}" if unknown else f"no {min(files - named)!r:.80}"
    raise ConfigError(
        f"expected {part / SHARDS} to name the safetensors with weights beside it, got {got}: save "
        "the model again in an empty folder"
    )

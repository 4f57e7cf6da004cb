"""A finished run on disk: its configuration, its backbone, and each client's own parts.

These are config.json, backbone.safetensors and clients/client_<id>.safetensors: files that run no
code when they are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config.data import MAX_IMAGE_SIZE
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.files.damage import read_object, reading
from pipeline.inference.saved_tensors import load_tensors, stored_guidance
from pipeline.runs.layout import CLIENT_FILE, CLIENTS, MODEL
from pipeline.runs.model_files import CONFIG, client_path
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.diffusion.process import Diffusion
from spire_core.errors import ConfigError, RunError
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel
from spire_core.network.words import caption_tokens
from spire_core.pretrained.folder import open_backbone
from spire_core.pretrained.sentences import SentenceEncoder, open_encoder
from spire_core.rng import torch_generator

MAX_NAMED = 40  # clients in a sentence


def _image_shape(stored: Any) -> tuple[int, int, int]:
    channels, height, width = map(int, stored)
    if channels not in (1, 3) or height != width or not 1 <= width <= MAX_IMAGE_SIZE:
        raise ValueError(f"{stored} as the shape of an image")
    return channels, height, width


def _check_backbone(backbone: str | None, sha256: object, folder: Path) -> None:
    """Raise RunError unless a pre-trained model is the one on which the run in a folder was."""
    if backbone is None:
        return
    found = open_backbone(backbone).sha256
    if found != sha256:
        raise RunError(
            f"expected the pre-trained model of the run in {folder} at {backbone}, got another "
            f"(by its backbone_sha256): put that one back, or start a new run"
        )


@dataclass(frozen=True)
class SavedRun:
    """A finished run, loaded: draws images as any of its clients."""

    folder: Path
    config: Config
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    model: FlatModel
    weights: Tensor

    @classmethod
    def load(cls, path: str | Path) -> "SavedRun":
        """Return the run in a run folder or in the `model` folder inside it.

        RunError if it is not complete, or if its backbone is not that of its configuration.
        """
        folder = Path(path) / MODEL if (Path(path) / MODEL).is_dir() else Path(path)
        path = folder / CONFIG
        whole = partial(reading, "a finished run", path, "wait for the run to end or name another")
        with whole():
            stored = read_object(path)
            config = config_from_dict(stored["config"])
            shape, names = _image_shape(stored["image_shape"]), tuple(stored["class_names"])
            if not all(isinstance(name, str) for name in names):
                raise TypeError(f"{names!r:.50} as class names")
            config.model.check_image_size(shape[-1])
        _check_backbone(config.model.backbone, stored.get("backbone_sha256"), folder)
        with whole():
            model = FlatModel(config.model, config.method, shape[0])
        shapes = {name: tuple(at) for name, _, at in model.layout.names}
        tensors = load_tensors(folder / "backbone.safetensors", shapes)
        return cls(folder, config, shape, names, model, model.flatten(tensors))

    @cached_property
    def diffusion(self) -> Diffusion:
        """The run's process, with the autoencoder of a pre-trained model of latents."""
        return Diffusion.of(self.config.diffusion, "cpu", self.config.model.backbone)

    @property
    def client_ids(self) -> list[int]:
        """Clients whose own parts are stored here; with an impersonal method, none."""
        found = [CLIENT_FILE.fullmatch(p.name) for p in (self.folder / CLIENTS).glob("*")]
        return sorted(int(m.group(1)) for m in found if m)

    def client_state(self, client_id: int | None) -> PrivateState:
        """Return a client's own parts; None is the population (the backbone without an embedding).

        RunError if there is no such client, or if its file does not hold what its method keeps.
        """
        if client_id is None:
            return PrivateState()
        if client_id not in self.client_ids:
            ids = self.client_ids
            known = ", ".join(map(str, ids[:MAX_NAMED])) + (", ..." if ids[MAX_NAMED:] else "")
            if not ids:
                raise RunError(
                    f"expected no client, got {client_id}: no client has a part of its own here, "
                    "so leave the client out"
                )
            raise RunError(f"expected a client out of {known}, got {client_id}: name one of them")
        layout, d_emb = self.model.layout, self.config.model.d_emb
        parts = self.config.method.record.adapt_parts  # with every method, all that a client owns
        shapes = {p: (d_emb if p == CLIENT_EMB else layout.part_size(p),) for p in parts}
        path = client_path(self.folder, client_id)
        return PrivateState(load_tensors(path, shapes), guidance=stored_guidance(path))

    def guidance(self, client_id: int | None) -> float:
        """Return the scale of a client's drawings: the one that it has chosen, or the run's.

        RunError as `client_state` says.
        """
        own = self.client_state(client_id).guidance
        return self.config.eval.guidance if own is None else own

    def prompt_tokens(self, prompt: str) -> Tensor:
        """Return a prompt as the network is shown it, words (L,) or a vector (D,).

        ConfigError if the run has no text, DataError for a word that its vocabulary lacks.
        """
        self.check_text("a prompt")
        if not prompt.strip():
            raise ConfigError(
                "expected a prompt of at least one word, got none: leave it out for images of "
                "whatever the client holds"
            )
        return torch.from_numpy(self.caption_tokens([prompt], "a prompt")[0])

    def caption_tokens(self, captions: Sequence[str], what: str) -> np.ndarray:
        """Return captions as the network is shown them, words (N, L) or vectors (N, D).

        `what` they are called in the message of an error, which is as `prompt_tokens` says.
        """
        self.check_text(what)
        if self.config.model.text == "words":
            return caption_tokens(captions, self.config.model.words)
        return self.sentence_encoder.vectors(captions)

    @property
    def has_text(self) -> bool:
        """Whether the network is shown captions."""
        return self.config.model.text != "none"

    def check_text(self, what: str) -> None:
        """Raise ConfigError for what needs text, if the run has none."""
        if not self.has_text:
            raise ConfigError(
                f"expected a run with text for {what}, got one with model.text=none: leave it out, "
                "or name another run"
            )

    def check_text_guidance(self, scale: float, what: str) -> None:
        """Raise ConfigError for a scale of guidance that the run has no text or null text for.

        `what` the scale is called in the message.
        """
        self.check_text(what)
        if scale != 1.0 and not self.config.has_null_text:
            is_federated = self.config.method.record.is_federated
            raise ConfigError(
                f"expected a run with client.text_dropout above 0 for {what}, got "
                f"{self.config.client.text_dropout if is_federated else 'one without rounds'}: "
                "only images shown without captions train the prediction that guidance starts "
                "from; leave it out, or name another run"
            )

    @cached_property
    def sentence_encoder(self) -> SentenceEncoder:
        """The frozen encoder of the run's captions; RunError if another one is in its place."""
        model = self.config.model
        encoder = open_encoder(model.text_encoder, model.text_dim)
        stored = read_object(self.folder / CONFIG).get("text_sha256")
        if encoder.sha256 != stored:
            raise RunError(
                f"expected the sentence encoder of the run in {self.folder}, got another (by its "
                "text_sha256): put that one back, or start a new run"
            )
        return encoder

    def draw(
        self,
        client_id: int | None,
        num_images: int,
        seed: int = 0,
        guidance: float = 1.0,
        prompt: str | None = None,
        text_guidance: float = 1.0,
    ) -> np.ndarray:
        """Return images (n, C, H, W) float32 in [-1, 1] drawn as a client, of what a prompt says.

        Without a client they are the population's. All prompts start from the same noise. RunError
        as `client_state` says, other errors as `prompt_tokens` says.
        """
        tokens = None if prompt is None else self.prompt_tokens(prompt)
        emb = load_client(self.model, self.weights, self.client_state(client_id))
        reference, has_backbone = None, self.config.has_backbone
        if guidance != 1.0 and emb is None and client_id is not None and has_backbone:
            reference = FlatModel(self.config.model, self.config.method, self.image_shape[0])
            reference.load(self.weights)
        self.model.net.eval()
        guided = self.diffusion.guided_timesteps(self.config.eval.guidance_interval)
        scales = (guidance, reference and reference.net, tokens, text_guidance, guided)
        images = draw(
            client_denoiser(self.model.net, emb, *scales),
            self.diffusion,
            self.image_shape,
            num_images,
            torch_generator(seed, "sample", -1 if client_id is None else client_id),
            self.config.eval.batch_size,
        )
        return images.numpy()

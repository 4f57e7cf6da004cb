"""A finished run on disk: its configuration, its backbone, and each client's own parts.

These are config.json, backbone.safetensors and clients/client_<id>.safetensors: files that run no
code when they are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config.load import config_from_dict, load_config
from pipeline.config.schema import Config
from pipeline.files.atomic import read_object, reading
from pipeline.runs.layout import CLIENT_FILE, CLIENTS, MODEL
from pipeline.runs.model_files import CONFIG, GUIDANCE, NAME, client_path
from pipeline.runs.record import find_run
from spire_core.config.checks import hint, require
from spire_core.diffusion.generation import client_denoiser, draw_together
from spire_core.diffusion.process import Denoiser, Diffusion
from spire_core.errors import RunError
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.network.flat_model import FlatModel
from spire_core.network.words import caption_tokens, composed
from spire_core.pretrained.folder import check_same
from spire_core.pretrained.sentences import SentenceEncoder, open_encoder
from spire_core.rng import torch_generator
from spire_core.training.several import drawn

ADVICE = "spire resume goes on with a run that has not ended; or name another"


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

        RunError if it is not complete, ConfigError if its pre-trained model is another one now.
        """
        folder = Path(path) / MODEL if (Path(path) / MODEL).is_dir() else Path(path)
        with reading("a finished run", folder / CONFIG, ADVICE):
            stored = read_object(folder / CONFIG)
            config = config_from_dict(stored["config"])
            channels, height, width = stored["image_shape"]
        if config.model.backbone is not None:
            check_same(config.model.backbone, stored.get("backbone_sha256"))
        model = FlatModel(config.model, config.method, channels)
        with reading("a finished run's weights", folder / "backbone.safetensors", ADVICE):
            weights = model.flatten(load_file(folder / "backbone.safetensors"))
        names = tuple(stored["class_names"])
        return cls(folder, config, (channels, height, width), names, model, weights)

    @cached_property
    def diffusion(self) -> Diffusion:
        """The run's process, with the autoencoder of a pre-trained model of latents."""
        return Diffusion.of(self.config.diffusion, "cpu", self.config.model.backbone)

    @property
    def client_ids(self) -> list[int]:
        """Clients whose own parts are stored here; with an impersonal method, none."""
        found = [CLIENT_FILE.fullmatch(p.name) for p in (self.folder / CLIENTS).glob("*")]
        return sorted(int(m.group(1)) for m in found if m)

    @property
    def client_names(self) -> dict[int, str]:
        """The names of clients whose own parts are stored here, by id, of those that have one."""
        headers = {client_id: self._header(client_id) for client_id in self.client_ids}
        return {client_id: own[NAME] for client_id, own in headers.items() if NAME in own}

    def id_of(self, client: int | str | None) -> int | None:
        """Return a client's id by its name, or by the id itself; None is the population.

        RunError for a name that no client here has. A name counts before an id.
        """
        if client is None or isinstance(client, int):
            return client
        names = self.client_names
        named = [i for i, name in names.items() if composed(name) == composed(client)]
        if not named and not client.isdecimal():
            known = f"one of {', '.join(names.values())}" if names else "an id, as none has a name"
            advice = hint(client, [*names.values()])
            raise RunError(f"expected a client of the run, {known}, got {client!r}: {advice}")
        return named[0] if named else int(client)

    def is_private(self, client_id: int) -> bool:
        """Whether a client's file promises something about its privacy."""
        self.client_state(client_id)  # or there is no such client
        return any(key.startswith("privacy.") for key in self._header(client_id))

    def _header(self, client_id: int) -> dict[str, str]:
        """Return the texts in a client's file."""
        path = client_path(self.folder, client_id)
        with (
            reading("a client's own parts", path, ADVICE),
            safe_open(path, framework="pt") as file,
        ):
            return file.metadata() or {}

    def client_state(self, client_id: int | None) -> PrivateState:
        """Return a client's own parts; None is the population (the backbone without an embedding).

        RunError if there is no such client.
        """
        if client_id is None:
            return PrivateState()
        if client_id not in (ids := self.client_ids):
            known = ", ".join(map(str, ids)) or "none, since no client has a part of its own here"
            raise RunError(
                f"expected a client out of {known}, got {client_id}: name another, or none"
            )
        path, scale = client_path(self.folder, client_id), self._header(client_id).get(GUIDANCE)
        with reading("a client's own parts", path, ADVICE):
            return PrivateState(load_file(path), guidance=None if scale is None else float(scale))

    def guidance(self, client_id: int | None) -> float:
        """Return the scale of a client's drawings: the one that it has chosen, or the run's.

        RunError as `client_state` says.
        """
        own = self.client_state(client_id).guidance
        return self.config.eval.guidance if own is None else own

    def scales(
        self,
        client_id: int | None,
        guidance: float | None = None,
        prompt: str | None = None,
        text_guidance: float | None = None,
    ) -> tuple[float, float]:
        """Return the scales of guidance and of text guidance that are drawn with.

        A scale that is None is the client's own, or the run's. ConfigError for one that would have
        no effect; 1 is meant to have none.
        """
        is_off, advice = guidance in (None, 1.0), "it pulls images away from the population"
        require(is_off or client_id is not None, "a client with guidance", "none", advice)
        is_off, advice = text_guidance in (None, 1.0), "it pulls images towards a prompt"
        require(is_off or prompt is not None, "a prompt with text guidance", "none", advice)
        return (
            self.guidance(client_id) if guidance is None else guidance,
            self.config.text_guidance if text_guidance is None else text_guidance,
        )

    @property
    def has_text(self) -> bool:
        """Whether the network is shown captions."""
        return self.config.model.text != "none"

    def caption_tokens(self, captions: Sequence[str], what: str) -> np.ndarray:
        """Return captions as the network is shown them, words (N, L) or vectors (N, D).

        ConfigError if the run has no text for `what` they are called, DataError for a caption that
        it does not know.
        """
        model, advice = self.config.model, "leave it out, or name another run"
        require(self.has_text, f"a run with text for {what}", "one with model.text=none", advice)
        if model.text == "words":
            return caption_tokens(captions, model.words)
        return self.sentence_encoder.vectors(captions)

    @cached_property
    def sentence_encoder(self) -> SentenceEncoder:
        """The frozen encoder of the run's captions; RunError if another one is in its place."""
        encoder = open_encoder(self.config.model.text_encoder, self.config.model.text_dim)
        if encoder.sha256 != read_object(self.folder / CONFIG).get("text_sha256"):
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
        as `client_state` says, other errors as `caption_tokens` says.
        """
        tokens = None
        if prompt is not None:
            tokens = torch.from_numpy(self.caption_tokens([prompt], "a prompt")[0])
        emb = load_client(self.model, self.weights, self.client_state(client_id))
        reference, has_backbone = None, self.config.has_backbone
        if guidance != 1.0 and emb is None and client_id is not None and has_backbone:
            model = FlatModel(self.config.model, self.config.method, self.image_shape[0])
            model.load(self.weights)
            reference = model.net
        self.model.net.eval()
        guided = self.diffusion.guided_timesteps(self.config.eval.guidance_interval)
        named = -1 if client_id is None else client_id
        chance = torch_generator(seed, "sample embeddings", named)
        embs = None if emb is None else drawn(emb, num_images, chance)

        def denoise_as(_: Tensor, at: slice) -> Denoiser:
            own = None if embs is None else embs[at]
            return client_denoiser(
                self.model.net, own, guidance, reference, tokens, text_guidance, guided
            )

        [images] = draw_together(
            denoise_as,
            self.diffusion,
            self.image_shape,
            num_images,
            [torch_generator(seed, "sample", named)],
            self.config.eval.batch_size,
        )
        return images.numpy()


def open_run(run: str, overrides: Sequence[str] = ()) -> SavedRun:
    """Return a finished run by its id, name or folder; `last` is the newest.

    `overrides`: those of tracking, which say where runs lie. Raises RunError if there is no such
    run, or if it is not complete.
    """
    return SavedRun.load(find_run(run, load_config(None, overrides).tracking, is_finished=True))

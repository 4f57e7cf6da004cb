"""The captions of data in the form in which a network is shown them."""

import numpy as np

from pipeline.data.datasets import ImageData
from spire_core.config.model import ModelConfig
from spire_core.errors import ConfigError
from spire_core.network.words import caption_tokens
from spire_core.pretrained.sentences import open_encoder


def shown_captions(data: ImageData, model: ModelConfig) -> tuple[np.ndarray | None, str | None]:
    """Return captions as the network is shown them, and the hash of a frozen encoder.

    Both are None without text. Every mistake in the captions is raised here.
    """
    if model.text == "none":
        return None, None
    if data.captions is None:
        raise ConfigError(
            f"expected data with captions with model.text={model.text}, got {data.name} without: "
            "choose data=fonts or a data.metadata with captions, or set model.text=none"
        )
    if model.text == "words":
        return caption_tokens(data.captions, model.words), None
    encoder = open_encoder(model.text_encoder, model.text_dim)
    return encoder.vectors(data.captions), encoder.sha256

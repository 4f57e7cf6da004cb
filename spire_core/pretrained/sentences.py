"""A frozen sentence encoder: captions as vectors that no run trains and no message holds.

The package wordllama contains one (256 numbers, about 16 MB). A folder holds another of its kind,
as the library model2vec saves it: `tokenizer.json`, and `model.safetensors` with one table of token
vectors. A caption is the mean of its tokens' vectors, scaled to the length sqrt(D), so that a
number is about 1. N captions of D numbers.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from spire_core.errors import ConfigError, DataError, first_line


@dataclass(frozen=True)
class SentenceEncoder:
    """Maps captions to vectors; `sha256` is that of its table and its tokenizer."""

    inference: Any  # wordllama's
    sha256: str

    def vectors(self, captions: Sequence[str]) -> np.ndarray:
        """Return captions as vectors (N, D) float32; DataError for one that has none."""
        kinds = {caption: self._vector(caption) for caption in dict.fromkeys(captions)}
        return np.array([kinds[caption] for caption in captions], np.float32)

    def _vector(self, caption: str) -> np.ndarray:
        """Return one caption's vector. By itself: padding beside others could change its bits."""
        text = caption.strip().lower()
        vector = self.inference.embed([text])[0] if text else np.zeros(1)
        length = float(np.linalg.norm(vector))
        if not 0.0 < length < np.inf:
            raise DataError(
                f"expected a caption that the sentence encoder knows, got {caption!r:.80}, which "
                "has no vector: write another"
            )
        return vector * (np.sqrt(len(vector)) / length)


def open_encoder(folder: str | None, dim: int) -> SentenceEncoder:
    """Return the encoder in a folder, or that of wordllama; its vectors have `dim` numbers.

    ConfigError if it is not installed, no such folder, or of another width.
    """
    wordllama = _wordllama()
    from tokenizers import Tokenizer  # lazy: comes with wordllama

    package = Path(wordllama.__file__).parent
    tokenizer_file = package / "tokenizers" / "l2_supercat_tokenizer_config.json"
    table_file = package / "weights" / "l2_supercat_256.safetensors"
    if folder is not None:
        tokenizer_file = Path(folder, "tokenizer.json")
        table_file = Path(folder, "model.safetensors")
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        [table] = load_file(table_file).values()
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise ConfigError(
            f"expected the sentence encoder {tokenizer_file} and one table of vectors in "
            f"{table_file}, got {first_line(error)}: save a static model there, as model2vec does"
        ) from error
    if table.ndim != 2 or table.shape[1] != dim:
        raise ConfigError(
            f"expected a sentence encoder of model.text_dim={dim} numbers, got a table of shape "
            f"{table.shape}: set model.text_dim={table.shape[-1]}"
        )
    inference = wordllama.inference.WordLlamaInference(table, tokenizer)
    digest = hashlib.sha256(inference.embedding.tobytes() + tokenizer_file.read_bytes())
    return SentenceEncoder(inference, digest.hexdigest())


def _wordllama() -> Any:
    """Import wordllama, which on its import would send all of a program's log to stderr."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import wordllama
        import wordllama.inference
    except ImportError as error:
        raise ConfigError(
            "expected the package wordllama for a sentence encoder, got none: "
            "pip install 'wordllama>=0.4,<0.5'"
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return wordllama

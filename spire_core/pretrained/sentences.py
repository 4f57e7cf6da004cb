"""A frozen sentence encoder: captions as vectors that no run trains and no message holds.

The package wordllama contains one (256 numbers, about 16 MB). A folder holds another of its kind,
as the library model2vec saves it: `tokenizer.json`, and `model.safetensors` with one table of token
vectors. A caption is the mean of its tokens' vectors, scaled to the length sqrt(D), so that a
number is about 1. N captions of D numbers.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from spire_core.errors import ConfigError, DataError

SHIPPED = "l2_supercat"  # the name of its files in wordllama
TABLE, TOKENIZER = "model.safetensors", "tokenizer.json"
MAX_CHARACTERS = 1000  # of a caption
INSTALL = "pip install 'wordllama>=0.4,<0.5'"


@dataclass(frozen=True)
class SentenceEncoder:
    """Maps captions to vectors; `sha256` is that of its table and its tokenizer.

    `unknown`: the token that stands for all that the tokenizer does not know, if it has one.
    """

    inference: Any  # wordllama's
    sha256: str
    unknown: int | None = None

    @property
    def dim(self) -> int:
        """D, the numbers of a vector."""
        return self.inference.embedding.shape[1]

    def vectors(self, captions: Sequence[str]) -> np.ndarray:
        """Return captions as vectors (N, D) float32.

        DataError for one that is empty, too long, or of nothing that the encoder knows.
        """
        kinds = {caption: self._vector(caption) for caption in dict.fromkeys(captions)}
        return np.array([kinds[caption] for caption in captions], np.float32)

    def _vector(self, caption: str) -> np.ndarray:
        """Return one caption's vector. By itself: padding beside others could change its bits."""
        if not 1 <= len(caption.strip()) <= MAX_CHARACTERS:
            raise DataError(
                f"expected a caption of 1 to {MAX_CHARACTERS} characters, got "
                f"{len(caption.strip())} in {caption!r:.80}: write another"
            )
        texts = [caption.strip().lower()]
        ([tokens], [vector]) = self.inference.tokenize(texts), self.inference.embed(texts)
        length = float(np.linalg.norm(vector))
        if not ({*tokens.ids} - {self.unknown} and 0.0 < length < np.inf):
            raise DataError(
                f"expected a caption that the sentence encoder knows, got {caption!r:.80}, which "
                "has no vector: write another"
            )
        return vector * (np.sqrt(self.dim) / length)


def open_encoder(folder: str | None, dim: int) -> SentenceEncoder:
    """Return the encoder in a folder, or that of wordllama; its vectors have `dim` numbers.

    ConfigError if it is not installed, no such folder, or of another width.
    """
    encoder = _read(*(_shipped() if folder is None else _in_folder(Path(folder))))
    if encoder.dim != dim:
        raise ConfigError(
            f"expected a sentence encoder of model.text_dim={dim} numbers, got one of "
            f"{encoder.dim}: set model.text_dim={encoder.dim}"
        )
    return encoder


def _shipped() -> tuple[Path, Path]:
    """Return tokenizer and table in the package wordllama."""
    package = Path(_wordllama().__file__).parent
    tokenizer = package / "tokenizers" / f"{SHIPPED}_tokenizer_config.json"
    return tokenizer, package / "weights" / f"{SHIPPED}_256.safetensors"


def _in_folder(folder: Path) -> tuple[Path, Path]:
    files = folder / TOKENIZER, folder / TABLE
    for path in files:
        if not path.is_file():
            raise ConfigError(
                f"expected the folder of a sentence encoder as model.text_encoder, got no file at "
                f"{path}: name one that holds {TOKENIZER} and {TABLE}"
            )
    return files


def _read(tokenizer_file: Path, table_file: Path) -> SentenceEncoder:
    wordllama = _wordllama()
    from tokenizers import Tokenizer

    folder = table_file.parent
    try:
        tokenizer, tensors = Tokenizer.from_file(str(tokenizer_file)), load_file(table_file)
        model = json.loads(tokenizer_file.read_bytes())["model"]
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise _unreadable(folder, str(error)) from error
    tables = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    if len(tables) != 1 or len(tensors) != 1 or not np.isfinite(tables[0]).all():
        raise _unreadable(folder, f"tensors {sorted(tensors)}")
    num_tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if num_tokens > len(tables[0]):  # others would have the vector of the last one
        raise _unreadable(folder, f"{len(tables[0])} vectors for {num_tokens} tokens")
    inference = wordllama.inference.WordLlamaInference(tables[0], tokenizer)
    digest = hashlib.sha256(inference.embedding.tobytes() + tokenizer_file.read_bytes())
    unknown = model.get("unk_id")  # of a Unigram model; of others their token
    if unknown is None and (token := model.get("unk_token")) is not None:
        unknown = tokenizer.token_to_id(token)
    return SentenceEncoder(inference, digest.hexdigest(), unknown)


def _unreadable(folder: Path, found: str) -> ConfigError:
    return ConfigError(
        f"expected a tokenizer and one finite table of token vectors in {folder}, got "
        f"{found!r:.200}: save a static model there, as model2vec does"
    )


def _wordllama() -> Any:
    """Import wordllama, which on its import would send all of a program's log to stderr."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import wordllama
        import wordllama.inference
    except ImportError as error:
        raise ConfigError(
            f"expected the package wordllama for a sentence encoder, got none: {INSTALL}"
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return wordllama

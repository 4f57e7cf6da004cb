"""A frozen sentence encoder: the one of wordllama, and folders."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from spire_core.errors import DataError
from spire_core.pretrained.sentences import SentenceEncoder, open_encoder


@pytest.fixture(scope="module")
def shipped() -> SentenceEncoder:
    return open_encoder(None, 256)


def folder_with(folder: Path, table: np.ndarray) -> Path:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "red": 1, "blue": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": table}, folder / "model.safetensors")
    return folder


def test_vectors_are_of_one_length_and_of_their_caption_alone(shipped: SentenceEncoder) -> None:
    captions = ["digit seven", "latin small letter q", "SEVEN", " seven ", "digit seven"]
    vectors = shipped.vectors(captions)
    assert (vectors.shape, vectors.dtype) == ((5, 256), np.float32)
    np.testing.assert_allclose(np.square(vectors).sum(1), 256, rtol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[4])
    np.testing.assert_array_equal(vectors[2], vectors[3])
    np.testing.assert_array_equal(shipped.vectors(captions[1:2])[0], vectors[1])
    near, far = (float(vectors[0] @ other) / 256 for other in (vectors[2], vectors[1]))
    assert near > far + 0.1  # a word that no caption has is next to its own


def test_a_folder_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    table = np.array([[0, 0, 0], [3, 0, 0], [0, 3, 0]], np.float32)
    encoder = open_encoder(str(folder_with(tmp_path, table)), 3)
    half = np.sqrt(3 / 2)
    expected = [[np.sqrt(3), 0, 0], [half, half, 0]]
    np.testing.assert_allclose(encoder.vectors(["Red", "red blue"]), expected, rtol=1e-6)
    other = tmp_path / "other"
    other.mkdir()
    same = open_encoder(str(folder_with(other, table)), 3)
    assert same.sha256 == encoder.sha256
    assert open_encoder(str(folder_with(other, 2 * table)), 3).sha256 != encoder.sha256


def test_a_caption_without_a_vector_is_refused(tmp_path: Path) -> None:
    table = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    encoder = open_encoder(str(folder_with(tmp_path, table)), 2)
    for caption in ("", "  ", "green"):
        with pytest.raises(DataError, match="expected a caption"):
            encoder.vectors([caption])
    assert encoder.vectors(["green red"]).shape == (1, 2)

"""Settings of the network (`model.*`)."""

import math
from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields, require

MAX_LEVELS = 10  # of resolution: images of 1024 pixels
MAX_WORDS = 10_000  # of a vocabulary


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the U-Net and of the client embedding.

    `width` times an entry of `multipliers`: the channels of one resolution level. `attention`: the
    levels that attend, 0 being the finest. `space_to_depth`: squares of this side are folded into
    channels at the input, so that each image costs less.

    `num_embs`: the embeddings of a client, of which each of its images is drawn with one, by
    private weights. `assign`: its training images belong to embeddings by clusters of "images", or
    by their "classes".

    `backbone`: the folder of a pre-trained model in diffusers' format, which takes the place of the
    U-Net (`spire_core.pretrained`). It brings its own noise schedule and prediction type.
    `checkpointing`: it computes its layers again in the backward pass, to save memory.

    `text`: "words" shows the network the caption of each image, by a learnt table of `words` and a
    small network, which belong to the backbone. `words` is the vocabulary, in small letters. It is
    published with the model, so it must not be made from clients' captions that are private.
    "sentences" takes a frozen sentence encoder (`spire_core.pretrained.sentences`), whose vectors
    of `text_dim` numbers a small network of the backbone reads, so that any words will do.
    `text_encoder` is its folder; None is the one in the package wordllama.
    """

    d_emb: Annotated[int, Range(1, 65_536)] = 64
    num_embs: Annotated[int, Range(1, 1024)] = 1
    assign: Annotated[str, Choice("images", "classes")] = "images"
    width: Annotated[int, Range(8, 8192)] = 32
    multipliers: Annotated[tuple[int, ...], Range(1, 64)] = (1, 2)
    num_blocks: Annotated[int, Range(1, 64)] = 1
    attention: tuple[int, ...] = (1,)
    cond_dim: Annotated[int, Range(1, 65_536)] = 128
    space_to_depth: Annotated[int, Range(1, 64)] = 2
    dropout: Annotated[float, Range(0, below=1)] = 0.0
    text: Annotated[str, Choice("none", "words", "sentences")] = "none"
    words: tuple[str, ...] = ()
    text_encoder: str | None = None
    text_dim: Annotated[int, Range(1, 65_536)] = 256
    backbone: str | None = None
    checkpointing: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "model")
        advice = "channels are normalised in groups"
        require(self.width % 8 == 0, "model.width as a multiple of 8", self.width, advice)
        levels = range(len(self.multipliers))
        advice = "see the presets for sizes that work"
        fits = len(levels) <= MAX_LEVELS
        require(fits, f"1..{MAX_LEVELS} model.multipliers", len(levels), advice)
        expected = f"levels 0..{len(levels) - 1} in model.attention"
        advice = "it names resolution levels, 0 being the finest"
        require(set(self.attention) <= set(levels), expected, self.attention, advice)
        has_words = self.text != "words" or 1 <= len(self.words) <= MAX_WORDS
        expected = f"1..{MAX_WORDS} model.words with model.text=words"
        advice = "list the words of the captions, as spire data show prints them"
        require(has_words, expected, len(self.words), advice)
        for word in self.words:
            is_word = word != "" and word == word.lower() and word.split() == [word]
            require(is_word, "single words in small letters in model.words", repr(word), advice)
        is_once = len(set(self.words)) == len(self.words)
        require(is_once, "each word once in model.words", "one of them twice", "drop one")
        for name, default in (("text", "none"), ("dropout", 0.0)):
            value = getattr(self, name)
            expected = f"model.{name}={default} with model.backbone"
            is_met = self.backbone is None or value == default
            require(is_met, expected, value, "a pre-trained network has its own")

    @property
    def emb_size(self) -> int:
        """The numbers of a client's embeddings and of their weights."""
        return self.d_emb if self.num_embs == 1 else self.num_embs * (self.d_emb + 1)

    def check_image_size(self, image_size: int) -> None:
        """Raise ConfigError if images of this side cannot be halved at every level.

        A pre-trained network has a size of its own, which is checked as it is loaded.
        """
        if self.backbone is not None:
            return
        step = self.space_to_depth * 2 ** (len(self.multipliers) - 1)
        expected = f"data.image_size divisible by {step} for this U-Net"
        advice = "choose another image size or fewer model.multipliers"
        require(image_size % step == 0, expected, image_size, advice)


def num_norm_groups(channels: int) -> int:
    """Return into how many groups channels are normalised: 32 or a half, a quarter ... of that.

    A group is of 3 channels at least, or of all: one alone would lose its mean and its scale, and
    with them the brightness and the contrast of an image.
    """
    groups = math.gcd(32, channels)
    while groups > 1 and channels < 3 * groups:
        groups //= 2
    return groups

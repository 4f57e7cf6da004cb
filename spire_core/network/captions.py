"""The encoders of captions, a part of the backbone: a learnt table of words, or of sentences.

A caption of words is the sum of their vectors: their order does not count. Shapes: B batch, L words
of a caption, N words of the vocabulary, D numbers of a sentence's vector, V width of the
conditioning vector. Dimensions are counted from the end, so that B may become (B, K).
"""

import torch
from torch import Tensor, nn

from spire_core.config.model import ModelConfig


class CaptionEncoder(nn.Module):
    """Maps captions to vectors (B, V) that are added to the time conditioning.

    The vector of a caption is MLP(sum_i w_i / sqrt(n)) over its n words. A caption without words is
    the null text, which training shows in place of dropped captions.
    """

    def __init__(self, num_words: int, cond_dim: int) -> None:
        super().__init__()
        self.num_words = num_words
        self.table = nn.Linear(num_words, cond_dim, bias=False)
        nn.init.normal_(self.table.weight)
        self.mlp = _mlp(cond_dim, cond_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, V) of tokens (B, L), where 0 is no word and L may be 0."""
        numbers = torch.arange(1, self.num_words + 1, device=tokens.device)
        counts = (tokens[..., None] == numbers).sum(-2).to(self.table.weight.dtype)  # (B, N)
        lengths = counts.sum(-1, keepdim=True).clamp(min=1.0)
        return self.mlp(self.table(counts / lengths.sqrt()))


class SentenceProjection(nn.Module):
    """Maps vectors of a frozen sentence encoder to vectors (B, V): MLP(s).

    The null text, which training shows in place of dropped captions, is s = 0.
    """

    def __init__(self, text_dim: int, cond_dim: int) -> None:
        super().__init__()
        self.text_dim = text_dim
        self.mlp = _mlp(text_dim, cond_dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return (B, V) of vectors (B, D), or of none (B, 0)."""
        if vectors.shape[-1] == 0:
            vectors = vectors.new_zeros(*vectors.shape[:-1], self.text_dim)
        return self.mlp(vectors.float())  # zeros may come with the type of the timesteps


def caption_encoder(config: ModelConfig) -> nn.Module | None:
    """Return the encoder of a network's captions, None without text."""
    if config.text == "none":
        return None
    if config.text == "words":
        return CaptionEncoder(len(config.words), config.cond_dim)
    return SentenceProjection(config.text_dim, config.cond_dim)


def _mlp(in_dim: int, cond_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

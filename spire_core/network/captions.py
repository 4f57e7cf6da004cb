"""The encoder of captions: a learnt table of words and a small network, a part of the backbone.

A caption is the sum of its words' vectors: their order does not count. Shapes: B batch, L words of
a caption, N words of the vocabulary, V width of the conditioning vector. Dimensions are counted
from the end, so that B may become (B, K).
"""

import torch
from torch import Tensor, nn


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
        self.mlp = nn.Sequential(
            nn.Linear(cond_dim, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, V) of tokens (B, L), where 0 is no word and L may be 0."""
        numbers = torch.arange(1, self.num_words + 1, device=tokens.device)
        counts = (tokens[..., None] == numbers).sum(-2).to(self.table.weight.dtype)  # (B, N)
        lengths = counts.sum(-1, keepdim=True).clamp(min=1.0)
        return self.mlp(self.table(counts / lengths.sqrt()))

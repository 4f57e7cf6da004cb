"""The set encoder: an embedding out of a client's images, in one pass (`model.set_encoder`).

Its output is the mean of what it makes of each image, whatever their number and order (deep sets,
Zaheer et al. 2017). It belongs to the backbone and trains in episodes. Shapes: B images of a set, C
channels, H and W image sides, D_emb numbers of an embedding. Dimensions are counted from the end,
so that B may become (B, K).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 1024  # images that are encoded at once


class SetEncoder(nn.Module):
    """Maps each image to a vector (D_emb,), of which a set's embedding is the mean.

    The last layer starts at zero, and with it all embeddings.
    """

    def __init__(self, image_channels: int, width: int, d_emb: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(image_channels, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.out = nn.Linear(2 * width, d_emb)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x0: Tensor) -> Tensor:
        """Return (B, D_emb) of images (B, C, H, W)."""
        h = F.silu(self.conv1(x0.to(self.out.weight.dtype)))
        h = F.silu(self.conv2(h))
        return self.out(h.mean((-2, -1)))

    @torch.no_grad()
    def embedding(self, x0: Tensor) -> Tensor:
        """Return the embedding (D_emb,) of a set of images (n, C, H, W)."""
        return torch.cat([self(some) for some in x0.split(CHUNK)]).mean(dim=0)

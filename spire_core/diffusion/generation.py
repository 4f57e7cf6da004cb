"""Generation of images as one client, or as several clients in one batch.

The noise depends on the caller's generators alone: with one per client, methods, rounds and epochs
are compared on the same noise. B, C, H, W as usual; D_emb: numbers of an embedding.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spire_core.diffusion.process import Denoiser, Diffusion
from spire_core.diffusion.samplers import sample

Network = Callable[..., Tensor]  # (xt, t) or (xt, t, client_emb) -> the prediction


def client_denoiser(
    net: Network,
    client_emb: Tensor | None,
    guidance: float = 1.0,
    reference: Network | None = None,
) -> Denoiser:
    """Return the network's prediction as one client, guided away from the impersonal prediction.

    out = ref + guidance (own - ref), Ho & Salimans 2022 eq. 6 with guidance = 1 + w. `ref` is the
    same network without an embedding or, for methods that have none, the network before adaptation
    (`reference`). With embeddings (B, D_emb), row i is predicted as the i-th client.
    """

    def own(xt: Tensor, t: Tensor) -> Tensor:
        emb = None if client_emb is None else client_emb.expand(xt.shape[0], -1)
        return net(xt, t, emb)

    def guided(xt: Tensor, t: Tensor) -> Tensor:
        ref = (reference or net)(xt, t)
        return ref + guidance * (own(xt, t) - ref)

    has_reference = client_emb is not None or reference is not None
    return guided if guidance != 1.0 and has_reference else own


@torch.inference_mode()
def draw(
    denoise: Denoiser,
    diffusion: Diffusion,
    shape: tuple[int, int, int],
    num_images: int,
    generator: torch.Generator,
    batch_size: int = 128,
) -> Tensor:
    """Return generated images (num_images, C, H, W) as float32 in [-1, 1], on the CPU."""
    settings = (diffusion, shape, num_images, [generator], batch_size)
    return draw_together(lambda _: denoise, *settings)[0]


@torch.inference_mode()
def draw_together(
    denoise_as: Callable[[Tensor], Denoiser],
    diffusion: Diffusion,
    shape: tuple[int, int, int],
    num_images: int,
    generators: Sequence[torch.Generator],
    batch_size: int = 128,
) -> list[Tensor]:
    """Return for each client the images of `draw`; rows of several clients share a batch.

    `denoise_as(who)` predicts a batch whose row i belongs to client `who[i]`, counted from 0. Each
    client has its own generator, whose draws do not depend on the other clients. Its images differ
    from those of `draw` by the rounding of float sums at most.
    """
    noise = [torch.randn(num_images, *shape, generator=g) for g in generators]
    device, drawn = diffusion.schedule.alpha_bar.device, torch.empty(len(noise), num_images, *shape)
    for start in range(0, num_images, batch_size):
        size = min(batch_size, num_images - start)
        num_clients = batch_size // size
        for first in range(0, len(noise), num_clients):
            clients = range(first, min(first + num_clients, len(noise)))
            who = torch.tensor(clients, device=device).repeat_interleave(size)
            xT = torch.cat([noise[c][start : start + size] for c in clients]).to(device)
            streams = [generators[c] for c in clients]
            images = sample(diffusion, denoise_as(who), xT, *streams).cpu()
            drawn[first : clients.stop, start : start + size] = images.unflatten(0, (-1, size))
    return list(drawn.clamp(-1, 1))

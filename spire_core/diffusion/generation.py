"""Generation of images as one client, or as several clients in one batch.

The noise depends on the caller's generators alone: with one per client, methods, rounds and epochs
are compared on the same noise. B, C, H, W as usual; D_emb: numbers of an embedding; L: words of a
caption.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spire_core.diffusion.process import Denoiser, Diffusion
from spire_core.diffusion.samplers import sample

Network = Callable[..., Tensor]  # (xt, t), with client_emb and tokens where there are any


def client_denoiser(
    net: Network,
    client_emb: Tensor | None,
    guidance: float | Tensor = 1.0,
    reference: Network | None = None,
    tokens: Tensor | None = None,
    text_guidance: float = 1.0,
    guided: range | None = None,
) -> Denoiser:
    """Return the network's prediction as one client, guided away from the impersonal prediction.

    out = ref + guidance (own - ref), Ho & Salimans 2022 eq. 6 with guidance = 1 + w. `ref` is the
    same network without an embedding or, for methods that have none, the network before adaptation
    (`reference`). With embeddings (B, D_emb), row i is predicted as the i-th client, and `guidance`
    may be (B,). `guided`: the
    timesteps at which `guidance` applies, None for all (Kynkäänniemi et al. 2024, sec. 3); all rows
    have the same timestep then, and others cost no second prediction.

    `tokens`, (L,) or (B, L), are captions. Their guidance is a second scale: out is moved by
    (text_guidance - 1) (own - own without the caption), as in classifier-free guidance of each
    condition by itself.
    """

    def shown(xt: Tensor) -> tuple[Tensor | None, ...]:
        emb = None if client_emb is None else client_emb.expand(xt.shape[0], -1)
        return (emb,) if tokens is None else (emb, tokens.expand(xt.shape[0], -1))

    def own(xt: Tensor, t: Tensor) -> Tensor:
        return net(xt, t, *shown(xt))

    def by_client(xt: Tensor, t: Tensor) -> Tensor:
        if guided is not None and int(t.flatten()[0]) not in guided:
            return own(xt, t)
        text = shown(xt)[1:]
        ref = (reference or net)(xt, t, *((None, *text) if text else ()))
        return ref + scale * (own(xt, t) - ref)

    def by_text(xt: Tensor, t: Tensor) -> Tensor:
        difference = own(xt, t) - net(xt, t, *shown(xt)[:1])
        return by_embedding(xt, t) + (text_guidance - 1) * difference

    has_reference = client_emb is not None or reference is not None
    scale = guidance.view(-1, 1, 1, 1) if isinstance(guidance, Tensor) else guidance
    is_guided = isinstance(guidance, Tensor) or guidance != 1.0
    by_embedding = by_client if is_guided and has_reference else own
    return by_text if text_guidance != 1.0 and tokens is not None else by_embedding


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
    return draw_together(lambda *_: denoise, *settings)[0]


@torch.inference_mode()
def draw_together(
    denoise_as: Callable[[Tensor, slice], Denoiser],
    diffusion: Diffusion,
    shape: tuple[int, int, int],
    num_images: int,
    generators: Sequence[torch.Generator],
    batch_size: int = 128,
) -> list[Tensor]:
    """Return for each client the images of `draw`; rows of several clients share a batch.

    `denoise_as(who, at)` predicts a batch whose row i belongs to client `who[i]`, counted from 0;
    its rows are the images `at` of each of its clients, one client after the other. Each client has
    its own generator, whose draws do not depend on the other clients. Its images differ from those
    of `draw` by the rounding of float sums at most.
    """
    size_of_x0 = diffusion.shape_of(shape)
    noise = [torch.randn(num_images, *size_of_x0, generator=g) for g in generators]
    device, drawn = diffusion.schedule.alpha_bar.device, torch.empty(len(noise), num_images, *shape)
    for start in range(0, num_images, batch_size):
        size = min(batch_size, num_images - start)
        num_clients = batch_size // size
        for first in range(0, len(noise), num_clients):
            clients = range(first, min(first + num_clients, len(noise)))
            who = torch.tensor(clients, device=device).repeat_interleave(size)
            xT = torch.cat([noise[c][start : start + size] for c in clients]).to(device)
            streams = [generators[c] for c in clients]
            at = slice(start, start + size)
            images = diffusion.decoded(sample(diffusion, denoise_as(who, at), xT, *streams))
            drawn[first : clients.stop, at] = images.unflatten(0, (-1, size))
    return list(drawn.clamp(-1, 1))

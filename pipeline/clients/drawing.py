"""Images drawn as one client, or as several that differ by their embeddings alone.

C, H, W as usual; n: images; D_emb: numbers of an embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from spire_core.diffusion.generation import Network, client_denoiser, draw_together
from spire_core.diffusion.process import Denoiser
from spire_core.rng import torch_generator

SAMPLE = "sample"  # the purpose of drawings that are scored
Scale = float | None  # of a client's guidance; None is that of the run


def draw_clients(
    context: ModelContext,
    clients: Sequence[ClientData],
    embs: Tensor | None,
    reference: Network | None = None,
    scales: Sequence[Scale] | None = None,
    purpose: str = SAMPLE,
) -> list[Tensor]:
    """Return images (n, C, H, W) of each of these clients, drawn for its held-out captions.

    The context's network holds their weights. `embs`: (clients, D_emb), (D_emb,) of a single one,
    or None. `reference`: the network to guide away from, of a method without embeddings. `scales`:
    each client's guidance. `purpose`: that of the noise, which differs by it.
    """
    config = context.config.eval
    prompts = [client.prompts(config.num_images) for client in clients]
    guided = context.diffusion.guided_timesteps(config.guidance_interval)
    own = scales or [None] * len(clients)
    factors = [config.guidance if scale is None else scale for scale in own]

    def denoise_as(who: Tensor, at: slice) -> Denoiser:
        emb = embs if embs is None or embs.ndim == 1 else embs[who]
        text = [rows[at] for i in dict.fromkeys(who.tolist()) if (rows := prompts[i]) is not None]
        tokens = torch.cat(text).to(context.device) if text else None
        guidance = (_of_rows(factors, who), reference, tokens, context.config.text_guidance, guided)
        return client_denoiser(context.model.net, emb, *guidance)

    return draw_together(
        denoise_as,
        context.diffusion,
        context.image_shape,
        config.num_images,
        [torch_generator(context.config.seed, purpose, client.client_id) for client in clients],
        config.batch_size,
    )


def _of_rows(factors: Sequence[float], who: Tensor) -> float | Tensor:
    """Return the guidance of rows of the clients `who` (B,), as one number if all agree."""
    of_rows = [factors[i] for i in who.tolist()]
    if len(set(of_rows)) == 1:
        return of_rows[0]
    return torch.tensor(of_rows, device=who.device)

"""Compression of client updates: the change of the weights is sent rounded or sparse.

`client.compression` names the form of the change d = w - w_0 of the shared weights:

- "bf16": each number rounded to bfloat16, 2 bytes;
- "int8": in blocks of `BLOCK`, q = round(a / s) with s = max |a| / 127: 1 byte, and 4 a block;
- "top_k": the share `client.top_k_fraction` of the coordinates that is largest in size, exact, with
  their indices: 8 bytes each.

int8 and top_k add the error of one message to the next change (error feedback; Seide et al. 2014,
Stich et al. 2018, Karimireddy et al. 2019, algorithm 2): a = d + e, sent = decode(encode(a)),
e <- a - sent. The residual e is private to its client. Adam's moments, where they are averaged,
travel as bfloat16 in every form, without feedback. Each number's relative error is at most 2^-8, so
no second moment becomes zero beside a nonzero first moment, and Adam's steps stay bounded.

S: length of the shared stretch; n: numbers of any array.
"""

from dataclasses import replace

import torch
from torch import Tensor

from spire_core.config.client import ClientConfig
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate

WITH_FEEDBACK = ("int8", "top_k")
BLOCK = 256  # numbers that share a scale
MAX_INT8 = 127


def sent(array: Tensor, form: str, fraction: float = 1.0) -> tuple[Tensor, int]:
    """Return the float32 array (n,) that arrives in place of another, and the bytes on the way."""
    if form == "bf16":
        return array.to(torch.bfloat16).float(), 2 * array.numel()
    if form == "int8":
        return _int8(array)
    indices = _largest(array, max(1, round(array.numel() * fraction)))
    whole = torch.zeros_like(array)
    whole[indices] = array[indices]
    return whole, 8 * indices.numel()


def _int8(array: Tensor) -> tuple[Tensor, int]:
    """Do as `sent`, with whole numbers in -127..127 and a scale for each block."""
    padded = torch.nn.functional.pad(array, (0, -array.numel() % BLOCK)).view(-1, BLOCK)
    scales = padded.abs().amax(dim=1, keepdim=True) / MAX_INT8
    divisors = torch.where(scales > 0, scales, torch.ones(()))
    whole = (padded / divisors).nan_to_num().round().clamp(-MAX_INT8, MAX_INT8)
    return (whole * scales).view(-1)[: array.numel()], array.numel() + 4 * len(scales)


def _largest(array: Tensor, count: int) -> Tensor:
    """Return the ascending indices of the `count` largest magnitudes; among equal ones the first.

    NaN and infinity count as the largest, so that they are sent and refused, not kept.
    """
    sizes = array.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    smallest = sizes.topk(count).values[-1]
    above = (sizes > smallest).nonzero().view(-1)
    equal = (sizes == smallest).nonzero().view(-1)[: count - above.numel()]
    return torch.cat([above, equal]).sort().values


def lossy(
    update: ClientUpdate, broadcast: Broadcast, residual: Tensor | None, config: ClientConfig
) -> tuple[ClientUpdate, Tensor | None]:
    """Return an update as it arrives, and the residual (S,) that its client keeps for the next.

    `residual` is the one that it kept before. Forms without feedback have none.
    """
    form = config.compression
    if form == "none":
        return update, None
    before = torch.tensor(broadcast.weights[: update.weights.size])
    change = torch.from_numpy(update.weights) - before
    if residual is not None:  # it was longer while local layers were still shared
        change += residual[: len(change)]
    arrived, num_bytes = sent(change, form, config.top_k_fraction)
    kept = change - arrived if form in WITH_FEEDBACK else None
    moments = update.moments
    if moments is not None:
        first, second = (torch.from_numpy(m) for m in (moments.exp_avg, moments.exp_avg_sq))
        (first, one), (second, two) = sent(first, "bf16"), sent(second, "bf16")
        num_bytes += one + two + moments.steps.nbytes
        moments = AdamMoments(first.numpy(), second.numpy(), moments.steps)
    weights = (before + arrived).numpy()
    return replace(update, weights=weights, moments=moments, sent_bytes=num_bytes), kept

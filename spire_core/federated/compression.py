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

Encoding and decoding depend on one client's numbers alone.
S: length of the shared stretch; n: numbers of any array.
"""

import numpy as np
import torch
from torch import Tensor

from spire_core.config.client import ClientConfig
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientUpdate,
    CompressedUpdate,
    Encoded,
    EncodedMoments,
    IntegerMessage,
)

WITH_FEEDBACK = ("int8", "top_k")
BLOCK = 256  # numbers that share a scale
MAX_INT8 = 127


def num_kept(size: int, fraction: float) -> int:
    """Return how many of `size` coordinates top-k sends: that share, rounded, and at least one."""
    return max(1, round(size * fraction))


def encode(array: Tensor, form: str, fraction: float) -> Encoded:
    """Return a float32 array (n,) in a form; a NaN or an infinity survives decoding."""
    if form == "bf16":
        arrays = (array.to(torch.bfloat16).view(torch.int16),)
    elif form == "int8":
        arrays = _encode_int8(array)
    else:
        indices = _largest(array, num_kept(array.numel(), fraction))
        arrays = (array[indices], indices.to(torch.int32))
    return Encoded(form, array.numel(), tuple(part.numpy() for part in arrays))


def _encode_int8(array: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole numbers (n,) in -127..127 and a scale for each block."""
    padded = torch.nn.functional.pad(array, (0, -array.numel() % BLOCK)).view(-1, BLOCK)
    scales = padded.abs().amax(dim=1) / MAX_INT8
    divisors = torch.where(scales > 0, scales, torch.ones(()))[:, None]
    whole = (padded / divisors).nan_to_num().round().clamp(-MAX_INT8, MAX_INT8).to(torch.int8)
    return whole.view(-1)[: array.numel()].contiguous(), scales


def _largest(array: Tensor, count: int) -> Tensor:
    """Return the ascending indices of the `count` largest magnitudes; among equal ones the first.

    NaN and infinity count as the largest, so that they are sent and refused, not kept.
    """
    sizes = array.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    smallest = sizes.topk(count).values[-1]
    above = (sizes > smallest).nonzero().view(-1)
    equal = (sizes == smallest).nonzero().view(-1)[: count - above.numel()]
    return torch.cat([above, equal]).sort().values


def decode(encoded: Encoded) -> Tensor:
    """Return the float32 array (n,) that an encoding stands for."""
    first, *more = (torch.tensor(array) for array in encoded.arrays)  # Ray's arrays are read-only
    if encoded.form == "bf16":
        return first.view(torch.bfloat16).float()
    if encoded.form == "int8":
        return first.float() * more[0].repeat_interleave(BLOCK)[: encoded.size]
    whole = torch.zeros(encoded.size)
    whole[more[0].long()] = first
    return whole


def compress(
    update: ClientUpdate, broadcast: Broadcast, residual: Tensor | None, config: ClientConfig
) -> tuple[ClientUpdate | CompressedUpdate, Tensor | None]:
    """Return the message for an update, and the residual (S,) that its client keeps for the next.

    `residual` is the one that it kept before. Without compression the message is the update itself;
    forms without feedback have no residual.
    """
    form = config.compression
    if form == "none":
        return update, None
    size = update.weights.size
    accumulated = torch.from_numpy(update.weights) - torch.tensor(broadcast.weights[:size])
    if residual is not None:  # it was longer while local layers were still shared
        accumulated += residual[:size]
    change = encode(accumulated, form, config.top_k_fraction)
    kept = accumulated - decode(change) if form in WITH_FEEDBACK else None
    moments = None if update.moments is None else _encoded_moments(update.moments)
    fields = (update.client_id, update.num_examples, update.num_steps, update.loss)
    return CompressedUpdate(*fields, change, moments), kept


def _encoded_moments(moments: AdamMoments) -> EncodedMoments:
    arrays = (torch.from_numpy(array) for array in (moments.exp_avg, moments.exp_avg_sq))
    return EncodedMoments(*(encode(array, "bf16", 1.0) for array in arrays), steps=moments.steps)


def decompress(
    sent: ClientUpdate | CompressedUpdate | IntegerMessage,
    weights: np.ndarray,
    config: ClientConfig,
) -> ClientUpdate:
    """Return the update in a message to a server that had handed out `weights`.

    Its `sent_bytes` are the message's. ValueError, with a reason in words, if the message does not
    have the form that the configuration asks for.
    """
    if config.compression == "none":
        if not isinstance(sent, ClientUpdate):
            raise ValueError("a compressed update that nobody asked for")
        return sent
    if not isinstance(sent, CompressedUpdate):
        raise ValueError(f"an update that is not compressed as {config.compression}")
    change = _checked("change", sent.change, weights.size, config)
    moments = None if sent.moments is None else _decoded_moments(sent.moments, weights.size)
    trained = (torch.tensor(weights[: len(change)]) + change).numpy()
    fields = (sent.client_id, sent.num_examples, sent.num_steps, sent.loss)
    return ClientUpdate(*fields, trained, moments, sent.num_bytes)


def _decoded_moments(sent: EncodedMoments, max_size: int) -> AdamMoments:
    if not isinstance(sent, EncodedMoments):
        raise ValueError(f"moments as {type(sent).__name__} instead of arrays in bf16")
    if not isinstance(sent.steps, np.ndarray):
        raise ValueError(f"steps as {type(sent.steps).__name__} instead of an array")
    return AdamMoments(
        _checked("exp_avg", sent.exp_avg, max_size).numpy(),
        _checked("exp_avg_sq", sent.exp_avg_sq, max_size).numpy(),
        sent.steps,
    )


def _checked(
    name: str, encoded: Encoded, max_size: int, config: ClientConfig | None = None
) -> Tensor:
    """Return a decoded array of at most `max_size` numbers; its form is `config`'s, or else bf16.

    ValueError if it cannot be decoded.
    """
    form = "bf16" if config is None else config.compression
    if not isinstance(encoded, Encoded) or not isinstance(encoded.arrays, tuple):
        raise ValueError(f"{name} as {type(encoded).__name__} instead of arrays in {form}")
    size, arrays = encoded.size, encoded.arrays
    if encoded.form != form:
        raise ValueError(f"{name} as {encoded.form} instead of {form}")
    if type(size) is not int or not 1 <= size <= max_size:
        raise ValueError(f"{size} numbers of {name} instead of at most {max_size}")
    kept = 0 if config is None else num_kept(size, config.top_k_fraction)
    kinds = {
        "bf16": [(np.int16, size)],
        "int8": [(np.int8, size), (np.float32, -(-size // BLOCK))],
        "top_k": [(np.float32, kept), (np.int32, kept)],
    }[form]
    found = [(getattr(array, "dtype", None), *np.shape(array)) for array in arrays]
    if found != [(np.dtype(kind), count) for kind, count in kinds]:
        raise ValueError(f"{name} as {found} instead of {kinds}")
    if form == "top_k":
        indices = arrays[1]
        is_inside = indices[0] >= 0 and indices[-1] < size
        if not is_inside or (indices[1:] <= indices[:-1]).any():
            raise ValueError(f"indices of {name} that do not ascend within 0..{size - 1}")
    return decode(encoded)

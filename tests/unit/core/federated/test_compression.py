"""What a client sends in fewer bytes: by hand, against bounds, and nothing is lost for good."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config.load import load_config
from spire_core.config.client import ClientConfig
from spire_core.errors import ConfigError
from spire_core.federated.compression import BLOCK, compress, decode, decompress, encode
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientUpdate,
    CompressedUpdate,
    Encoded,
    UpdateFault,
)
from spire_core.federated.update_checks import fault_of

SIZE = 600  # two blocks and a part of one
FORMS = ("bf16", "int8", "top_k")
FRACTION = 0.05


def numbers(seed: int, size: int = SIZE) -> Tensor:
    """Numbers of very different sizes, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(3 * torch.randn(size, generator=generator))
    drawn = torch.randn(size, generator=generator) * sizes * 1e-3
    drawn[:: 7 + seed] = 0.0
    return drawn


def config_for(form: str) -> ClientConfig:
    return ClientConfig(compression=form, top_k_fraction=FRACTION)


def update_of(weights: Tensor, **moments: Any) -> ClientUpdate:
    return ClientUpdate(3, 10, 1, 0.5, weights.numpy(), **moments)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_decoded_is_close_to_what_was_encoded(seed: int) -> None:
    array = numbers(seed)
    error = {form: (decode(encode(array, form, FRACTION)) - array).abs() for form in FORMS}
    assert (error["bf16"] <= 2**-8 * array.abs()).all()
    for block, missed in zip(array.split(BLOCK), error["int8"].split(BLOCK), strict=True):
        assert missed.max() <= block.abs().max() / 127 / 2 * (1 + 1e-6)
    sent = error["top_k"] == 0
    kept = array.abs()[sent & (array != 0)]
    assert len(kept) == 30
    assert kept.min() >= array.abs()[~sent].max()


def test_int8_by_hand() -> None:
    """A block whose largest number is 254 has scale 2: 254, 5, -7, 0.9 become 127, 2, -4, 0."""
    array = torch.tensor([254.0, 5.0, -7.0, 0.9])
    encoded = encode(array, "int8", FRACTION)
    whole, scales = encoded.arrays
    assert whole.tolist() == [127, 2, -4, 0]
    assert scales.tolist() == [2.0]
    assert decode(encoded).tolist() == [254.0, 4.0, -8.0, 0.0]


def test_top_k_takes_the_first_of_equal_numbers() -> None:
    """Two of five: 3 is the largest, and of the three with size 2 the first comes along."""
    array = torch.tensor([1.0, -2.0, 2.0, 3.0, 2.0])
    values, indices = encode(array, "top_k", 0.4).arrays
    assert (values.tolist(), indices.tolist()) == ([-2.0, 3.0], [1, 3])
    whole = encode(array, "top_k", 1.0)
    assert torch.equal(decode(whole), array)
    assert decode(encode(torch.zeros(5), "top_k", 0.2)).tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("form", "num_bytes"),
    [
        ("none", 600 * 4),
        ("bf16", 600 * 2),
        ("int8", 600 + 3 * 4),  # three blocks
        ("top_k", 30 * (4 + 4)),
    ],
)
def test_bytes_by_hand(form: str, num_bytes: int) -> None:
    before, after = numbers(0), numbers(1)
    sent, _ = compress(update_of(after), Broadcast(before.numpy()), None, config_for(form))
    assert sent.num_bytes == num_bytes
    assert decompress(sent, before.numpy(), config_for(form)).num_bytes == num_bytes
    moments = AdamMoments(after.numpy(), after.square().numpy(), np.zeros(4, np.float32))
    full = update_of(after, moments=moments)
    sent, _ = compress(full, Broadcast(before.numpy()), None, config_for(form))
    assert sent.num_bytes == num_bytes + 2 * 600 * (4 if form == "none" else 2) + 4 * 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_sent_is_kept_for_the_next_round(form: str, seed: int) -> None:
    """Sent and residual together are, bit by bit, the change and what was kept before."""
    config, residual, received = config_for(form), None, torch.zeros(SIZE).double()
    changes = torch.zeros(SIZE).double()
    for round_idx in range(5):
        before = numbers(10 * seed + round_idx)
        after = before + numbers(100 + 10 * seed + round_idx)
        broadcast = Broadcast(before.numpy())
        message, kept = compress(update_of(after), broadcast, residual, config)
        assert isinstance(message, CompressedUpdate)
        sent = decode(message.change)
        accumulated = (after - before) + (torch.zeros(SIZE) if residual is None else residual)
        got = decompress(message, before.numpy(), config)
        assert torch.equal(torch.from_numpy(got.weights), before + sent)
        if form == "bf16":
            assert kept is None
            assert torch.equal(sent, accumulated.bfloat16().float())
        else:
            assert kept is not None
            assert torch.equal(sent.double() + kept.double(), accumulated.double())
        received, changes = received + sent, changes + (after - before)
        residual = kept
    if residual is not None:  # over all rounds nothing is missing but what is still owed
        torch.testing.assert_close(received + residual, changes, rtol=1e-5, atol=1e-6)
        assert residual.abs().max() > 0


def test_moments_stay_what_adam_can_use() -> None:
    """Rounded to bfloat16, also beside top_k: non-negative, and m^2 <= c v keeps its c."""
    second = numbers(1).square()
    first = (second.sqrt() * 0.99).numpy()
    moments = AdamMoments(first, second.numpy(), np.ones(4, np.float32))
    full = update_of(numbers(0), moments=moments)
    before = numbers(2).numpy()
    message, _ = compress(full, Broadcast(before), None, config_for("top_k"))
    got = decompress(message, before, config_for("top_k")).moments
    assert got is not None
    np.testing.assert_array_less(got.exp_avg**2, got.exp_avg_sq * 1.02 + 1e-38)
    assert (got.exp_avg_sq[second.numpy() > 0] > 0).all()
    np.testing.assert_array_equal(got.steps, moments.steps)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_is_refused(form: str, bad: float) -> None:
    before, after = numbers(0), numbers(1)
    after[SIZE // 2] = bad
    message, _ = compress(update_of(after), Broadcast(before.numpy()), None, config_for(form))
    got = decompress(message, before.numpy(), config_for(form))
    fault = fault_of(got, before.numpy(), has_moments=False)
    assert fault == UpdateFault("NaN or infinity in weights", is_divergence=True)


def arrays_of(change: Callable[[tuple[np.ndarray, ...]], Any]) -> Callable[[Encoded], Encoded]:
    return lambda encoded: replace(encoded, arrays=change(encoded.arrays))


MALFORMED: dict[str, tuple[str, Callable[[Encoded], Any], str]] = {
    "another form": ("int8", lambda e: replace(e, form="bf16"), "change as bf16 instead of int8"),
    "too many": ("bf16", lambda e: replace(e, size=SIZE + 1), "601 numbers of change"),
    "no number": ("bf16", lambda e: replace(e, size=None), "None numbers of change"),
    "too few": ("bf16", arrays_of(lambda a: (a[0][1:],)), "change as .*599"),
    "no scales": ("int8", arrays_of(lambda a: a[:1]), "change as"),
    "float scales": ("int8", arrays_of(lambda a: (a[0], a[1].astype(np.float64))), "float64"),
    "a list": ("int8", arrays_of(lambda a: (a[0].tolist(), a[1])), "None"),
    "another share": ("top_k", arrays_of(lambda a: (a[0][:-1], a[1][:-1])), "29"),
    "beyond": ("top_k", arrays_of(lambda a: (a[0], a[1] + np.int32(600))), "not ascend within"),
    "below": ("top_k", arrays_of(lambda a: (a[0], a[1] - np.int32(600))), "not ascend within"),
    "wrapping": (
        "top_k",
        arrays_of(lambda a: (a[0], np.array([0, 2**31 - 1, -2, *a[1][3:]], np.int32))),
        "not ascend within",
    ),
    "nothing": ("top_k", lambda e: None, "change as NoneType"),
    "no arrays": ("int8", lambda e: replace(e, arrays=None), "instead of arrays"),
    "twice": ("top_k", arrays_of(lambda a: (a[0], a[1] * 0)), "not ascend within"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_decoded_is_refused_in_words(name: str) -> None:
    form, spoil, words = MALFORMED[name]
    before = numbers(0).numpy()
    message, _ = compress(update_of(numbers(1)), Broadcast(before), None, config_for(form))
    assert isinstance(message, CompressedUpdate)
    with pytest.raises(ValueError, match=words):
        decompress(replace(message, change=spoil(message.change)), before, config_for(form))


def test_steps_that_are_no_array_are_refused_in_words() -> None:
    before = numbers(0).numpy()
    moments = AdamMoments(before, before, np.ones(4, np.float32))
    full = update_of(numbers(1), moments=moments)
    message, _ = compress(full, Broadcast(before), None, config_for("bf16"))
    spoilt: Any = [1.0, 2.0]
    assert isinstance(message, CompressedUpdate)
    assert message.moments is not None
    moments = replace(message.moments, steps=spoilt)
    with pytest.raises(ValueError, match="steps as list"):
        decompress(replace(message, moments=moments), before, config_for("bf16"))


def test_an_update_in_a_form_that_nobody_asked_for_is_refused() -> None:
    before, plain = numbers(0).numpy(), update_of(numbers(1))
    message, _ = compress(plain, Broadcast(before), None, config_for("int8"))
    with pytest.raises(ValueError, match="nobody asked for"):
        decompress(message, before, config_for("none"))
    with pytest.raises(ValueError, match="not compressed as int8"):
        decompress(plain, before, config_for("int8"))


def test_without_compression_the_update_itself_travels() -> None:
    plain = update_of(numbers(1))
    sent, kept = compress(plain, Broadcast(numbers(0).numpy()), None, config_for("none"))
    assert sent is plain
    assert kept is None
    assert decompress(sent, numbers(0).numpy(), config_for("none")) is plain


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["client.compression=zip"], "client.compression out of .*, got 'zip'"),
        (["client.top_k_fraction=0"], r"in \(0, 1\], got 0\.0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config("smoke", settings)

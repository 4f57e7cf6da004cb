"""Adapters of our own U-Net: they start as no change, and equal the change that they stand for."""

import pytest
import torch
from torch import Tensor

from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.methods import BODY, LOCAL
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.rng import torch_generator

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)
PLAIN = MethodConfig("fedavg")


def adapted(method: str, rank: int = 2) -> tuple[FlatModel, Tensor]:
    config = MethodConfig(method, rank=rank)
    return FlatModel(MODEL, config, 1), initial_weights(MODEL, config, 1, 0)


def inputs() -> tuple[Tensor, Tensor]:
    xt = torch.randn(3, 1, 8, 8, generator=torch_generator(0, "xt"))
    return xt, torch.tensor([0, 10, 999])


def random_like(weights: Tensor) -> Tensor:
    """Numbers in all places, also in layers that start at zero."""
    return weights + 0.1 * torch.randn(weights.shape, generator=torch_generator(0, "more"))


@pytest.mark.parametrize("method", ["lora", "bias", "diffit"])
def test_a_new_adapter_changes_nothing(method: str) -> None:
    """All methods start from the same numbers; the adapter is a part at the end of the vector."""
    model, weights = adapted(method)
    plain, start = FlatModel(MODEL, PLAIN, 1), initial_weights(MODEL, PLAIN, 1, 0)
    named = model.named_tensors(weights)
    shared = plain.named_tensors(start)
    assert all(torch.equal(named[name], tensor) for name, tensor in shared.items())
    noisy = plain.named_tensors(random_like(start))
    model.load(model.flatten(named | noisy))
    plain.load(plain.flatten(noisy))
    with torch.no_grad():
        assert torch.equal(model.net(*inputs()), plain.net(*inputs()))
    assert set(model.layout.parts) == set(plain.layout.parts)
    sizes = {part: model.layout.part_size(part) for part in (BODY, LOCAL)}
    assert sum(sizes.values()) == model.layout.size
    assert 0 < sizes[LOCAL] < sizes[BODY]
    added = {len(named[name].shape) for name in named.keys() - shared.keys()}
    assert added == {"lora": {2}, "bias": set(), "diffit": {1}}[method]


def test_low_rank_is_a_change_of_the_weights_of_attention() -> None:
    model, weights = adapted("lora", rank=3)
    weights = random_like(weights)
    model.load(weights)
    named = model.named_tensors(weights)
    merged = {name: t.clone() for name, t in named.items() if not name.startswith("adapter.")}
    layers = [name for name in merged if name.endswith(("attend.qkv.weight", "attend.out.weight"))]
    for name in layers:
        own = f"adapter.{name.removesuffix('.weight').replace('.', '_')}"
        merged[name] += (named[f"{own}.up"] @ named[f"{own}.down"])[..., None, None]
    assert len(layers) == (len(named) - len(merged)) / 2 == 8
    plain = FlatModel(MODEL, PLAIN, 1)
    plain.load(plain.flatten(merged))
    with torch.no_grad():
        found, expected = model.net(*inputs()), plain.net(*inputs())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, FlatModel(MODEL, PLAIN, 1).net(*inputs()), atol=0.1)


def test_scale_factors_are_a_change_of_the_last_layers_of_branches() -> None:
    model, weights = adapted("diffit")
    weights = random_like(weights)
    model.load(weights)
    named = model.named_tensors(weights)
    merged = {name: t.clone() for name, t in named.items() if not name.startswith("adapter.")}
    factors = {n: t for n, t in named.items() if n.startswith("adapter.")}
    for name in [n.removesuffix(".weight") for n in merged if n.endswith(".weight")]:
        factor = factors.pop(f"adapter.{name.replace('.', '_')}.factor", None)
        if factor is not None:
            assert name.endswith(("conv2", "attend.out"))
            merged[f"{name}.weight"] *= factor[:, None, None, None]
            merged[f"{name}.bias"] *= factor
    assert not factors
    plain = FlatModel(MODEL, PLAIN, 1)
    plain.load(plain.flatten(merged))
    with torch.no_grad():
        found, expected = model.net(*inputs()), plain.net(*inputs())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_biases_and_normalisations_are_the_numbers_of_one_dimension() -> None:
    model, _ = adapted("bias")
    at = model.layout.parts[LOCAL]
    for name, start, shape in model.layout.names:
        is_one = name.endswith(".bias") or ".norm" in f".{name}"
        assert (at.start <= start < at.stop) == is_one == (len(shape) == 1), name

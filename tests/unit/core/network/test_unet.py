"""The U-Net: its sizes, its entrance for the embedding, and the flat vector of its weights."""

import pytest
import torch
from torch.nn import functional as F

from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig, num_norm_groups
from spire_core.diffusion.generation import client_denoiser
from spire_core.network.flat_model import FlatModel
from spire_core.network.layers import NARROW, DoublingConv2d, ModulatedGroupNorm, PointwiseConv2d
from spire_core.network.unet import UNet
from spire_core.rng import torch_generator

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)


def random_model(method: str = "spire") -> FlatModel:
    model = FlatModel(MODEL, MethodConfig(name=method), 3)
    model.load(torch.randn(model.layout.size, generator=torch_generator(0, "weights")) * 0.1)
    return model


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    xt = torch.randn(4, 3, 8, 8, generator=torch_generator(0, "xt"))
    return xt, torch.tensor([0, 10, 500, 999])


def test_zero_projection_equals_the_unconditional_network() -> None:
    model = random_model()
    plain = UNet(MODEL, 3, has_embedding=False)
    tensors = model.named_tensors(model.weights)
    plain.load_state_dict({k: v for k, v in tensors.items() if k != "emb_proj.weight"})
    xt, t = inputs()
    emb = torch.randn(4, 5, generator=torch_generator(0, "emb"))
    with torch.no_grad():
        assert not torch.equal(model.net(xt, t, emb), plain(xt, t))
        assert torch.equal(model.net(xt, t, torch.zeros(4, 5)), plain(xt, t))
        model.weights[model.layout.parts["emb_proj"]] = 0.0
        assert torch.equal(model.net(xt, t, emb), plain(xt, t))


def test_guidance_one_is_off_and_zero_is_the_reference() -> None:
    model, (xt, t) = random_model(), inputs()
    emb = torch.randn(5, generator=torch_generator(0, "emb"))
    with torch.no_grad():
        own = model.net(xt, t, emb.expand(4, -1))
        ref = model.net(xt, t)
        assert torch.equal(client_denoiser(model.net, emb, 1.0)(xt, t), own)
        torch.testing.assert_close(client_denoiser(model.net, emb, 0.0)(xt, t), ref)
        expected = ref + 2.0 * (own - ref)
        torch.testing.assert_close(client_denoiser(model.net, emb, 2.0)(xt, t), expected)


def test_each_row_has_the_guidance_of_its_client() -> None:
    model, (xt, t) = random_model(), inputs()
    embs, scales = torch.randn(4, 5, generator=torch_generator(0, "emb")), [0.0, 1.0, 1.5, 3.0]
    with torch.no_grad():
        found = client_denoiser(model.net, embs, torch.tensor(scales))(xt, t)
        for i, scale in enumerate(scales):
            alone = client_denoiser(model.net, embs[i], scale)(xt[i : i + 1], t[i : i + 1])
            torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_guidance_applies_within_its_timesteps_alone() -> None:
    model, (xt, t) = random_model(), inputs()
    emb, calls = torch.randn(5, generator=torch_generator(0, "emb")), list[int]()

    def net(xt: torch.Tensor, t: torch.Tensor, emb: torch.Tensor | None = None) -> torch.Tensor:
        calls.append(int(t[0]))
        return model.net(xt, t, emb)

    with torch.no_grad():
        for step in (3, 4, 6, 7):
            at = torch.full_like(t, step)
            found = client_denoiser(net, emb, 2.0, guided=range(4, 7))(xt, at)
            scale = 2.0 if 4 <= step < 7 else 1.0
            assert torch.equal(found, client_denoiser(model.net, emb, scale)(xt, at))
    assert calls == [3, 4, 4, 6, 6, 7]  # a second prediction inside alone


@pytest.mark.parametrize("method", ["spire", "shared_rep", "fedavg"])
def test_flat_vector_and_named_tensors_are_inverse(method: str) -> None:
    model = random_model(method)
    tensors = model.named_tensors(model.weights)
    assert torch.equal(model.flatten(tensors), model.weights)
    state = model.net.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(state[k], tensors[k]) for k in state)


def test_paper_scale_is_the_size_of_ddpm_and_the_embedding_a_ten_thousandth() -> None:
    """Ho et al. 2020 give 35.7 M parameters for CIFAR-10."""
    config = ModelConfig(
        d_emb=64,
        width=128,
        multipliers=(1, 2, 2, 2),
        num_blocks=2,
        cond_dim=272,
        space_to_depth=1,
    )
    with torch.device("meta"):
        total = sum(p.numel() for p in UNet(config, 3, has_embedding=True).parameters())
    assert total == pytest.approx(35.7e6, rel=2e-3)
    assert 64 / (total + 64) <= 1e-4


def test_dropout_is_off_unless_a_network_trains() -> None:
    """Also before it has ever trained, as in a process that only draws images."""
    config = ModelConfig(width=8, attention=(), dropout=0.5)
    model = FlatModel(config, MethodConfig(), 1)
    model.weights.normal_(std=0.1)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 500])
    with torch.no_grad():
        torch.testing.assert_close(model.net(x, t), model.net(x, t), rtol=0, atol=0)
        with model.training():
            assert not torch.equal(model.net(x, t), model.net(x, t))
        with pytest.raises(IndexError), model.training():
            _ = [][0]
        assert torch.equal(model.net(x, t), model.net(x, t))


def test_a_doubling_convolution_sees_every_pixel_four_times() -> None:
    """Also at the border, and so do its gradients."""
    layer = DoublingConv2d(4).double()
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    larger = F.interpolate(x, scale_factor=2.0, mode="nearest")
    expected = F.conv2d(larger, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)
    inputs = (x, *layer.parameters())
    down = torch.randn_like(expected)
    found = torch.autograd.grad((layer(x) * down).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((expected * down).sum(), inputs))


@pytest.mark.parametrize(("channels", "side"), [(4, 1), (4, 6), (NARROW // 3 + 1, 2)])
def test_a_pointwise_convolution_is_a_product_of_matrices(channels: int, side: int) -> None:
    """Of each pixel's channels, and so are its gradients; also where it is convolved."""
    layer = PointwiseConv2d(channels, 3).double()
    x = torch.randn(5, channels, side, side, dtype=torch.float64, requires_grad=True)
    expected = torch.einsum("oc,bchw->bohw", layer.weight[..., 0, 0], x)
    assert layer.bias is not None
    expected = expected + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)
    inputs, down = (x, *layer.parameters()), torch.randn_like(expected)
    found = torch.autograd.grad((layer(x) * down).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((expected * down).sum(), inputs))


def test_a_modulated_norm_scales_and_shifts_each_image() -> None:
    layer = ModulatedGroupNorm(2, 4).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x, down = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64).unbind()
    scale, shift = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    inputs = tuple(p.requires_grad_() for p in (x, scale, shift, *layer.parameters()))
    expected = F.group_norm(x, 2, layer.weight, layer.bias, layer.eps)
    expected = expected * (1 + scale[..., None, None]) + shift[..., None, None]
    torch.testing.assert_close(layer(x, scale, shift), expected)
    found = torch.autograd.grad((layer(x, scale, shift) * down).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((expected * down).sum(), inputs))


def test_channels_are_normalised_in_groups_that_keep_what_an_image_is_like() -> None:
    """Alone, a channel would lose the brightness of the image."""
    sizes = {8: 2, 16: 4, 24: 8, 32: 8, 40: 8, 48: 16, 64: 16, 72: 8, 96: 32, 128: 32, 1024: 32}
    assert {channels: num_norm_groups(channels) for channels in sizes} == sizes
    torch.manual_seed(0)
    net = UNet(ModelConfig(width=8, multipliers=(1, 1), attention=()), 1, has_embedding=False)
    with torch.no_grad():
        x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 500])
        seen = []
        net.conv_out.register_forward_pre_hook(lambda _, args: seen.append(args[0].mean((-1, -2))))
        net(x, t)
        net(x + 2.0, t)
    assert (seen[0] - seen[1]).abs().max() > 0.02

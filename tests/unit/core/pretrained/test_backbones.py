"""Pre-trained networks draw what diffusers draws, and an entrance of zeros changes nothing."""

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.ddpm import pipeline_ddpm
from diffusers.pipelines.dit import pipeline_dit
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.diffusion.samplers import SAMPLERS, run_sampler, timestep_grid
from spire_core.errors import ConfigError
from spire_core.methods import BODY, EMB_PROJ, LOCAL, MODULATION
from spire_core.network.flat_model import FlatModel, initial_weights, tensors_hash
from spire_core.network.folding import fold
from spire_core.pretrained.folder import open_backbone
from spire_core.pretrained.loading import load_network
from spire_core.pretrained.networks import prompt_width
from spire_core.training.fixed_entrance import fixed_entrance

T, SIZE, D_EMB = 12, 8, 5
BLOCKS = {
    "sample_size": SIZE,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
TOKENS = {
    "sample_size": SIZE,
    "in_channels": 1,
    "out_channels": 2,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
PROMPT = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(5))


def unet(**more: Any) -> UNet2DModel:
    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    return UNet2DModel(**BLOCKS, down_block_types=down, up_block_types=up, **more)


def with_text(**other: Any) -> UNet2DConditionModel:
    down = ("DownBlock2D", "CrossAttnDownBlock2D")
    up = ("CrossAttnUpBlock2D", "UpBlock2D")
    more = {"down_block_types": down, "up_block_types": up, "cross_attention_dim": 6}
    return UNet2DConditionModel(**BLOCKS, **(more | other))


def dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(**TOKENS, num_embeds_ada_norm=10)


def pixart() -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(**TOKENS, cross_attention_dim=16, caption_channels=6)


MAKERS: dict[str, Callable[..., Any]] = {
    "UNet2DModel": unet,
    "UNet2DConditionModel": with_text,
    "DiTTransformer2DModel": dit,
    "PixArtTransformer2DModel": pixart,
}
ENTRANCES = [
    ("UNet2DModel", "time"),
    ("UNet2DModel", "blocks"),
    ("UNet2DConditionModel", "time"),
    ("UNet2DConditionModel", "tokens"),
    ("DiTTransformer2DModel", "time"),
    ("DiTTransformer2DModel", "blocks"),
    ("PixArtTransformer2DModel", "time"),
    ("PixArtTransformer2DModel", "tokens"),
]


def make(name: str, **more: Any) -> Any:
    """A network with random numbers in every layer, also in those that start at zero.

    It needs no gradients: with weights that do, torch's matrix products round otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MAKERS[name](**more).eval()
        for p in network.parameters():
            p.data += 0.02 * torch.randn(p.shape)
    return network.requires_grad_(False)


def save(folder: Path, network: Any, scheduler: Any = None, **more: Any) -> Path:
    """Write a pipeline's folder with the library's own writers."""
    scheduler = scheduler or DDIMScheduler(num_train_timesteps=T, clip_sample=False)
    part = "unet" if type(network).__name__.startswith("UNet") else "transformer"
    network.save_pretrained(folder / part)
    scheduler.save_pretrained(folder / "scheduler")
    index = {part: ["diffusers", type(network).__name__]}
    index |= {"scheduler": ["diffusers", type(scheduler).__name__], **more}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Some", **index}))
    save_file({"encoder_hidden_states": PROMPT}, folder / "prompt.safetensors")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {name: save(root / name, make(name)) for name in MAKERS}


def flat(folder: Path, method: MethodConfig, channels: int = 1) -> FlatModel:
    config = ModelConfig(d_emb=D_EMB, backbone=str(folder))
    model = FlatModel(config, method, channels)
    model.load(initial_weights(config, method, channels, 0))
    return model


def noise(num: int = 2) -> Tensor:
    return torch.randn(num, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def ours(folder: Path, model: FlatModel, emb: Tensor | None = None) -> Tensor:
    diffusion = Diffusion.of(DiffusionConfig(sample_steps=T), backbone=str(folder))
    embs = None if emb is None else emb.expand(2, -1)
    grid = timestep_grid(T, T)
    rule, x = SAMPLERS["ddim"], noise()
    return run_sampler(diffusion, rule, lambda x, t: model.net(x, t, embs), x, grid, clip_x0=False)


@torch.no_grad()
def theirs(name: str, network: Any, scheduler: Any) -> Tensor:
    """What the library draws from the same noise: by its own pipeline, if it needs no text encoder.

    Its pipelines with text want the package transformers; of these it is their loop.
    """
    scheduler.set_timesteps(T)
    if name == "DiTTransformer2DModel":
        vae = Pixels()
        pipe = DiTPipeline(network, vae, scheduler)
        pipe.set_progress_bar_config(disable=True)
        with given_noise():
            images = pipe([10, 10], guidance_scale=1.0, num_inference_steps=T, output_type="np")[0]
        return torch.from_numpy(images).permute(0, 3, 1, 2)
    if name == "UNet2DModel":
        pipe = DDPMPipeline(network, scheduler)
        pipe.set_progress_bar_config(disable=True)
        with given_noise():
            images = pipe(2, num_inference_steps=T, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2)
    x, prompt = noise(), PROMPT.repeat(2, 1, 1)
    for t in scheduler.timesteps:
        out = network(x, timestep=t.expand(2), encoder_hidden_states=prompt).sample[:, :1]
        x = scheduler.step(out, t, x).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


class Pixels(nn.Module):
    """An autoencoder whose latents are the pixels."""

    config = SimpleNamespace(scaling_factor=1.0)
    device, dtype = torch.device("cpu"), torch.float32

    def decode(self, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents)


@contextlib.contextmanager
def given_noise() -> Iterator[None]:
    """Pipelines draw their first noise from here; the rest of their sampling is their own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (pipeline_ddpm, pipeline_dit):
            patch.setattr(module, "randn_tensor", lambda *_, **__: noise())
        yield


@pytest.mark.parametrize("name", MAKERS)
def test_it_draws_the_images_of_the_library(name: str, folders: dict[str, Path]) -> None:
    model = flat(folders[name], MethodConfig("retrofit"))
    expected = theirs(name, make(name), DDIMScheduler(num_train_timesteps=T, clip_sample=False))
    found = (ours(folders[name], model) / 2 + 0.5).clamp(0, 1)
    assert expected.std() > 0.05
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("kind", "beta_end"), [("v_prediction", 0.02), ("sample", 0.05)])
def test_the_folder_tells_the_process(tmp_path: Path, kind: str, beta_end: float) -> None:
    settings = {"num_train_timesteps": T, "prediction_type": kind, "beta_end": beta_end}
    scheduler = DDIMScheduler(**settings, clip_sample=False)
    folder = save(tmp_path, make("UNet2DModel"), scheduler)
    found = ours(folder, flat(folder, MethodConfig("retrofit")))
    expected = theirs("UNet2DModel", make("UNet2DModel"), scheduler)
    assert ((found / 2 + 0.5).clamp(0, 1) - expected).abs().max() < 1e-5
    diffusion = Diffusion.of(DiffusionConfig(sample_steps=T), backbone=str(folder))
    x0, t = noise(), torch.tensor([2, 7])
    eps = noise().flip(0)
    xt = diffusion.q_sample(x0, t, eps)
    torch.testing.assert_close(xt, DDPMScheduler(**settings).add_noise(x0, eps, t))
    back = diffusion.x0_eps(xt, t, diffusion.target(x0, t, eps))
    torch.testing.assert_close(back, (x0, eps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "entrance"), ENTRANCES)
def test_zeros_are_the_original_network(name: str, entrance: str, folders: dict[str, Path]) -> None:
    """Bit for bit, with a zero map, a zero embedding or none; any other embedding moves it."""
    model, plain = flat(folders[name], MethodConfig("retrofit", entrance=entrance)), make(name)
    x, t = noise(), torch.tensor([1, 8])
    emb = torch.randn(2, D_EMB, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        original = model.net.kind.call(plain, x, t, PROMPT.repeat(2, 1, 1))[:, :1]
        assert torch.equal(model.net(x, t), original)
        assert torch.equal(model.net(x, t, emb), original)  # the map is zero
        model.weights.normal_(generator=torch.Generator().manual_seed(2))
        assert torch.equal(model.net(x, t, torch.zeros(2, D_EMB)), original)
        moved = model.net(x, t, emb)
        assert (moved - original).abs().max() > 1e-3
        alone = model.net(x[1:], t[1:], emb[1:])  # rows do not touch each other
        torch.testing.assert_close(alone, moved[1:], rtol=1e-4, atol=1e-5)
    assert [p for p, at in model.layout.parts.items() if at.stop > at.start] == [EMB_PROJ]
    total = sum(p.numel() for p in plain.parameters())
    assert model.num_frozen == total > 40 * model.layout.size / D_EMB


def test_native_training_has_all_parts(folders: dict[str, Path]) -> None:
    model = flat(folders["UNet2DModel"], MethodConfig("spire"))
    sizes = {part: model.layout.part_size(part) for part in model.layout.parts}
    assert sizes[LOCAL] == model.num_frozen == 0
    assert min(sizes[BODY], sizes[MODULATION], sizes[EMB_PROJ]) > 0
    plain = make("UNet2DModel")
    own = {n.removeprefix("network."): p for n, p in model.net.named_parameters()}
    assert all(torch.equal(own[name], p) for name, p in plain.named_parameters())
    at = model.layout.parts[MODULATION]
    read = {name for name, start, _ in model.layout.names if at.start <= start < at.stop}
    assert read == {f"network.{n}" for n, _ in plain.named_parameters() if "time_emb_proj" in n}


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "PixArtTransformer2DModel"])
def test_layers_that_read_a_moved_prompt_keep_their_moments(
    name: str, folders: dict[str, Path]
) -> None:
    """Where the entrance is the prompt, these see the embedding, and not those of the timestep."""
    model = flat(folders[name], MethodConfig("spire", entrance="tokens"))
    at = model.layout.parts[MODULATION]
    read = {name for name, start, _ in model.layout.names if at.start <= start < at.stop}
    keys = {n for n in read if ".attn2.to_k." in n}
    assert keys
    assert {n.replace(".to_k.", ".to_v.") for n in keys} <= read
    assert any("caption_projection." in n for n in read) == name.startswith("PixArt")
    assert not any("time_emb_proj" in n or "adaln_single" in n for n in read)


def test_layers_behind_the_entrance_of_each_block_keep_their_moments(
    folders: dict[str, Path],
) -> None:
    """A block scales and moves what its second convolution reads, and not the time conditioning."""
    model = flat(folders["UNet2DModel"], MethodConfig("spire", entrance="blocks"))
    at = model.layout.parts[MODULATION]
    read = {name for name, start, _ in model.layout.names if at.start <= start < at.stop}
    assert read == {n for n, *_ in model.layout.names if ".conv2." in n}
    assert len(read) >= 4


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("method", ["lora", "bias", "diffit"])
def test_an_adapter_starts_as_the_network_that_it_adapts(
    name: str, method: str, folders: dict[str, Path]
) -> None:
    model, plain = flat(folders[name], MethodConfig(method, freeze=True, rank=2)), make(name)
    x, t = noise(), torch.tensor([1, 8])
    with torch.no_grad():
        original = model.net.kind.call(plain, x, t, PROMPT.repeat(2, 1, 1))[:, :1]
        assert torch.equal(model.net(x, t), original)
        before = tensors_hash(dict(plain.named_parameters()))
    size = model.layout.part_size(LOCAL)
    biases = sum(p.numel() for p in plain.parameters() if p.ndim == 1)
    added = [n for n, _, _ in model.layout.names if n.startswith("adapter.")]
    assert 0 < size == model.layout.size
    assert bool(added) == (method != "bias")
    if method == "bias":
        assert size == biases
    model.net(x, t).square().sum().backward()
    grads = model.grads.clone()
    assert grads.abs().max() > 0
    model.weights -= 0.1 * grads
    with torch.no_grad():
        assert not torch.equal(model.net(x, t), original)
    assert tensors_hash(dict(plain.named_parameters())) == before


FOLDED = [(name, MethodConfig("retrofit", entrance=entrance)) for name, entrance in ENTRANCES]
FOLDED += [("UNet2DModel", MethodConfig(n, freeze=True)) for n in ("lora", "bias", "diffit")]


@pytest.mark.parametrize(("name", "method"), FOLDED)
def test_a_client_folds_into_the_numbers_of_its_network(
    name: str, method: MethodConfig, folders: dict[str, Path]
) -> None:
    model, x, t = flat(folders[name], method), noise(), torch.tensor([1, 8])
    noisy = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(2))
    model.weights += 0.1 * noisy
    emb = None
    if method.record.has_embedding:
        emb = torch.randn(D_EMB, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.net(x, t, None if emb is None else emb.expand(2, -1))
        network, prompt = fold(model.net, emb)
        tokens = None if prompt is None else prompt.repeat(2, 1, 1)
        found = model.net.kind.call(network, x, t, tokens)[:, :1]
        original = model.net.kind.call(make(name), x, t, PROMPT.repeat(2, 1, 1))[:, :1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - original).abs().max() > 1e-3


def test_a_rank_is_the_size_of_what_it_adds(folders: dict[str, Path]) -> None:
    """Four maps of attention in three places of 16 channels, each of rank times (16 + 16)."""
    sizes = [
        flat(folders["UNet2DModel"], MethodConfig("lora", freeze=True, rank=r)).layout.size
        for r in (1, 3)
    ]
    assert sizes == [4 * 4 * 32, 3 * 4 * 4 * 32]


@pytest.mark.parametrize(("projection", "entrance"), [("random", "time"), ("subspace", "blocks")])
def test_a_fixed_entrance_is_orthonormal_and_the_same_for_all(
    folders: dict[str, Path], projection: str, entrance: str
) -> None:
    folder = folders["UNet2DModel"]
    method = MethodConfig("retrofit", entrance=entrance, projection=projection)
    model = flat(folder, method)
    first, again, other = (fixed(folder, model, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for name, matrix in model.named_tensors(first).items():
        gram = matrix.T @ matrix * D_EMB / len(matrix)
        torch.testing.assert_close(gram, torch.eye(D_EMB), rtol=1e-4, atol=1e-4, msg=name)


def fixed(folder: Path, model: FlatModel, seed: int) -> Tensor:
    diffusion = Diffusion.of(DiffusionConfig(sample_steps=2), backbone=str(folder))
    start, shape = torch.zeros(model.layout.size), (1, SIZE, SIZE)
    return fixed_entrance(model, start, diffusion, shape, model.method.projection, seed, 24)


def test_the_subspace_holds_more_of_the_gradient_than_a_random_one(
    folders: dict[str, Path],
) -> None:
    folder, x0 = folders["UNet2DModel"], noise(32).clamp(-1, 1)
    diffusion = Diffusion.of(DiffusionConfig(sample_steps=2), backbone=str(folder))
    norms = []
    for projection in ("random", "subspace"):
        method = MethodConfig("retrofit", projection=projection)
        model = flat(folder, method)
        model.load(fixed(folder, model, 0))
        emb = torch.zeros(32, D_EMB, requires_grad=True)
        x, t = noise(32), torch.arange(32) % T
        loss = diffusion.loss(lambda xt, t, m=model, e=emb: m.net(xt, t, e), x0, t, x).sum()
        norms.append(float(torch.autograd.grad(loss, emb)[0].norm()))
    assert norms[1] > 1.5 * norms[0]


def damaged(folder: Path, what: str) -> None:
    """Make a folder such as users have."""
    if what == "empty":
        for file in folder.rglob("*"):
            file.unlink() if file.is_file() else None
    elif what == "pickle":
        (file,) = (folder / "unet").glob("*.safetensors")
        file.rename(file.with_suffix(".bin"))
    elif what == "cut":
        (file,) = (folder / "unet").glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:100])
    elif what == "huge":
        (file,) = (folder / "unet").glob("*.safetensors")
        with file.open("r+b") as sparse:
            sparse.truncate(2**43)
    elif what == "prediction":
        change(folder / "scheduler/scheduler_config.json", prediction_type="flow")
    elif what == "class":
        change(folder / "model_index.json", unet=["diffusers", "UNet3DConditionModel"])
    elif what == "index":
        (folder / "model_index.json").write_text("[1")
    elif what == "sizes":
        change(folder / "unet/config.json", block_out_channels=[8, 24])


def change(file: Path, **more: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def opened(folder: Path) -> FlatModel:
    Diffusion.of(DiffusionConfig(sample_steps=T), backbone=str(folder))
    return flat(folder, MethodConfig("retrofit"))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("empty", "no file at"),
        ("pickle", "diffusion_pytorch_model.bin alone, a pickle"),
        ("cut", "cannot load"),
        ("huge", "MiB to load"),
        ("prediction", "prediction_type as epsilon, v_prediction, sample"),
        ("class", "UNet3DConditionModel"),
        ("index", "no readable JSON"),
        ("sizes", "cannot load"),
    ],
)
def test_a_folder_that_is_no_model_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path, what: str, words: str
) -> None:
    folder = Path(shutil.copytree(folders["UNet2DModel"], tmp_path / "copy"))
    before = open_backbone(folder).sha256
    damaged(folder, what)
    with pytest.raises(ConfigError) as found:
        opened(folder)
    message = str(found.value)
    assert words in message
    assert message.startswith("expected ")
    assert ", got " in message
    assert "\n" not in message
    if what == "prediction":
        assert open_backbone(folder).sha256 != before


def test_other_mistakes_are_one_sentence_too(folders: dict[str, Path], tmp_path: Path) -> None:
    path = folders["UNet2DModel"]
    model = flat(path, MethodConfig("retrofit"))
    model.net.check_image_size(SIZE)
    with pytest.raises(ConfigError, match=rf"images of side {SIZE}.*, got 32: set data.image_size"):
        model.net.check_image_size(32)
    with pytest.raises(ConfigError, match=r"images of 1 channels.*, got 3"):
        flat(path, MethodConfig("retrofit"), channels=3)
    with pytest.raises(ConfigError, match=r"method\.entrance=tokens: choose time or blocks"):
        flat(path, MethodConfig("retrofit", entrance="tokens"))
    with pytest.raises(ConfigError, match=r"method\.entrance=blocks: choose time or tokens"):
        flat(folders["PixArtTransformer2DModel"], MethodConfig("retrofit", entrance="blocks"))
    classes = save(tmp_path / "classes", make("UNet2DModel", num_class_embeds=10))
    with pytest.raises(ConfigError, match="without classes"):
        flat(classes, MethodConfig("retrofit"))
    flow = FlowMatchEulerDiscreteScheduler()
    no_betas = save(tmp_path / "flow", make("UNet2DModel"), flow)
    with pytest.raises(ConfigError, match=r"alphas_cumprod .* got 'FlowMatchEuler.*: choose a mod"):
        Diffusion.of(DiffusionConfig(), backbone=str(no_betas))
    without = save(tmp_path / "prompt", make("UNet2DConditionModel"))
    (without / "prompt.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"encoder_hidden_states \(1, L, 6\).*got none"):
        flat(without, MethodConfig("retrofit"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_need_room_for_their_file_and_a_network_of_float32(
    folders: dict[str, Path], tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of that part alone, and not of variants that nobody loads."""
    shutil.copytree(folders["UNet2DModel"], tmp_path, dirs_exist_ok=True)
    [file] = (tmp_path / "unet").glob("*.safetensors")
    tensors = {name: numbers.to(dtype) for name, numbers in load_file(file).items()}
    save_file(tensors, file)
    shutil.copy(file, tmp_path / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    need = file.stat().st_size + 4 * sum(numbers.numel() for numbers in tensors.values())
    for free in (need, need - 1):
        machine = SimpleNamespace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda machine=machine: machine)
        folder = open_backbone(tmp_path)  # whose weights are not loaded yet
        if free == need:
            load_network(folder)
            continue
        with pytest.raises(ConfigError, match="expected memory for the weights in"):
            load_network(folder)


def test_weights_that_are_missing_are_not_drawn_at_random(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["UNet2DModel"], tmp_path, dirs_exist_ok=True)
    [file] = (tmp_path / "unet").glob("*.safetensors")
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"got none of conv_in.weight \(1 of its tensors are"):
        load_network(open_backbone(tmp_path))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_one_sentence(
    folders: dict[str, Path], tmp_path: Path, number: float
) -> None:
    shutil.copytree(folders["UNet2DConditionModel"], tmp_path, dirs_exist_ok=True)
    save_file({"encoder_hidden_states": PROMPT * number}, tmp_path / "prompt.safetensors")
    with pytest.raises(ConfigError, match=r"encoder_hidden_states \(1, L, 6\).*got NaN or inf"):
        flat(tmp_path, MethodConfig("retrofit"))
    [file] = (tmp_path / "unet").glob("*.safetensors")
    tensors = load_file(file)
    tensors["conv_in.weight"][0, 0, 0, 0] = number
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"finite weights in .* infinity in conv_in\.weight: sa"):
        flat(tmp_path, MethodConfig("retrofit"))


def test_weights_that_a_network_has_no_layer_for_are_not_left_out(tmp_path: Path) -> None:
    save(tmp_path, make("UNet2DModel"))
    [file] = (tmp_path / "unet").glob("*.safetensors")
    save_file(load_file(file) | {"conv_in.lora_A.weight": torch.zeros(2)}, file)
    with pytest.raises(ConfigError, match=r"got conv_in.lora_A.weight as well \(1 tensors"):
        load_network(open_backbone(tmp_path))


def test_the_width_of_a_token_is_what_the_network_takes(tmp_path: Path) -> None:
    # A width for each level, as in some folders, and a map from the prompt's own width.
    for more in ({"cross_attention_dim": (6, 6)}, {"encoder_hid_dim": 6}):
        mapped = {"encoder_hid_dim_type": "text_proj"} if "encoder_hid_dim" in more else {}
        network = with_text(**more, **mapped)
        assert prompt_width(network) == 6
        given = network(noise(), timestep=1, encoder_hidden_states=PROMPT.repeat(2, 1, 1))
        assert given.sample.shape == noise().shape
    with pytest.raises(ConfigError, match=r"tokens of one width, got \[4, 6\]"):
        prompt_width(with_text(cross_attention_dim=(6, 4)))
    images = {"encoder_hid_dim": 6, "encoder_hid_dim_type": "image_proj"}
    with pytest.raises(ConfigError, match=r"timestep and prompt in .*, got one of image_proj"):
        load_network(open_backbone(save(tmp_path, with_text(**images))))


def test_a_network_is_not_changed_by_those_beside_it(folders: dict[str, Path]) -> None:
    """Two networks of one folder: hooks and numbers of one do not reach the other."""
    one, two = (flat(folders["UNet2DModel"], MethodConfig("retrofit")) for _ in range(2))
    x, t, emb = noise(), torch.tensor([1, 8]), torch.ones(2, D_EMB)
    before = copy.deepcopy(two.net(x, t, emb).detach())
    one.weights.fill_(1.0)
    one.net(x, t, emb)
    assert torch.equal(two.net(x, t, emb), before)

"""A run on a model of latents: images are encoded once, and what is drawn is decoded."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, LDMPipeline, PNDMScheduler
from safetensors.torch import load_file
from small_runs import finished, small
from tiny_backbone import PROMPT, autoencoder, change, make, save
from torch import Tensor

from pipeline.audit.audit import audit_run
from pipeline.config.schema import Config
from pipeline.experiment.estimate import measure
from pipeline.inference.arrival import adapt_arrival
from pipeline.inference.arrival_images import ArrivingImages
from pipeline.inference.pipeline_folder import write_pipeline
from pipeline.inference.saved_run import SavedRun
from pipeline.results.result import Result
from pipeline.runs.record import load_start
from spire_core.pretrained.latents import LatentCodec

SETTINGS = ["data.image_size=16", "federation.num_clients=2", "federation.num_new_clients=1"]
SETTINGS += ["federation.tau=1", "federation.cohort_size=2", "federation.num_rounds=3"]
SETTINGS += ["client.batch_size=2", "client.warmup_rounds=0", "client.lr=0.01", "model.d_emb=4"]
SETTINGS += ["adapt.num_images=4", "eval.kid_subset_size=4", "partition=iid"]
SETTINGS += ["partition.client_size=40", "method=retrofit", "eval.num_clients=null"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LDMPipeline of 8 x 8 latents, without the library's warning of its age."""
    folder, vae = tmp_path_factory.mktemp("pipelines") / "ldm", autoencoder(latent_channels=2)
    pipe = LDMPipeline(vae, make("UNet2DModel", channels=2), DDPMScheduler(50))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(backbone: Path, mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("latent")
    return small(mnist_root, root, *SETTINGS, f"model.backbone={backbone}")


@pytest.fixture(scope="module")
def encoded() -> list[str]:
    """The hashes of all images that the run has encoded, one for each."""
    return []


@pytest.fixture(scope="module")
def result(config: Config, encoded: list[str]) -> Result:
    encode = LatentCodec.encode

    def counted(codec: LatentCodec, images: Tensor) -> Tensor:
        encoded.extend(hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in images)
        return encode(codec, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LatentCodec, "encode", counted)
        return finished(config)


def test_each_image_is_encoded_once(result: Result, encoded: list[str]) -> None:
    splits = [result.setting.partition.split(client_id) for client_id in range(3)]
    positions = {int(i) for split in splits for i in (*split.train, *split.test[:8])}
    images = result.setting.images[sorted(positions)]
    assert len(encoded) == len(positions) > 20
    assert len(set(encoded)) == len(np.unique(images, axis=0))
    files = list((result.run_dir.parent / "cache").glob("*.safetensors"))
    shapes = [tuple(tensor.shape[1:]) for f in files for tensor in load_file(f).values()]
    assert shapes.count((2, 8, 8)) == 6  # of three clients, to learn from and held out


def test_what_is_drawn_are_images_also_by_the_library(result: Result, tmp_path: Path) -> None:
    (new_id,) = result.setting.new_ids
    run = SavedRun.load(result.run_dir)
    drawn = run.draw(new_id, 3)
    assert drawn.shape == (3, 1, 16, 16)
    assert np.abs(drawn).max() <= 1
    assert not np.array_equal(drawn, run.draw(None, 3))
    assert result.adaptation.reports[0].num_trained == 4
    write_pipeline(run, new_id, tmp_path / "client")
    pipe = LDMPipeline.from_pretrained(tmp_path / "client")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(2, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 16, 16, 1)


def test_what_comes_after_a_run_works_in_latents(result: Result, config: Config) -> None:
    images = result.setting.images[:12]
    arrival = adapt_arrival(SavedRun.load(result.run_dir), ArrivingImages(images), config.adapt)
    assert arrival.num_trained == 4
    began, _ = load_start(result.run_dir)
    audit = audit_run(result.run_dir, began, began, (), 1, lambda text: None)
    assert audit.models is not None
    costs = measure(config)
    assert min(costs.train_s, costs.look_s) > 0


def test_a_small_stable_diffusion_takes_a_token(
    mnist_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder of a StableDiffusionPipeline, with the parts that are not read named alone."""
    steps = {"beta_schedule": "scaled_linear", "skip_prk_steps": True, "steps_offset": 1}
    network, vae = make("UNet2DConditionModel", channels=2), autoencoder(latent_channels=2)
    folder = save(tmp_path / "sd", network, PNDMScheduler(**steps), vae=vae)
    others = {"text_encoder": ["transformers", "CLIPTextModel"], "safety_checker": [None, None]}
    change(folder / "model_index.json", **others)
    monkeypatch.chdir(tmp_path)
    words = ["model.backbone=sd", "method.entrance=tokens", "federation.num_rounds=1"]
    found = finished(small(mnist_root, tmp_path, *SETTINGS, *words))
    run, (new_id,) = SavedRun.load(found.run_dir), found.setting.new_ids
    assert run.model.layout.size == 4 * 6
    assert not np.array_equal(run.draw(new_id, 2), run.draw(None, 2))
    write_pipeline(run, new_id, tmp_path / "client")
    again = load_file(tmp_path / "client" / "prompt.safetensors")["encoder_hidden_states"]
    assert torch.equal(again[:, :-1], PROMPT[:, :-1])
    assert not torch.equal(again[:, -1], PROMPT[:, -1])

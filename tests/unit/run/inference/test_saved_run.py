"""A finished run on disk: what is saved is what draws, and a client of it can be exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import spire
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.inference.arrival import joining_config
from pipeline.inference.pipeline_folder import write_pipeline
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.model_files import save_client, save_run
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.eval import EvalConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.diffusion.process import Diffusion
from spire_core.errors import RunError
from spire_core.federated.private_state import PrivateState
from spire_core.network.flat_model import FlatModel
from spire_core.rng import torch_generator

TINY = ModelConfig(d_emb=4, width=8, multipliers=(1,), attention=(), cond_dim=8)
STEPS = DiffusionConfig(num_timesteps=10, sample_steps=2)
MORE = {"image_shape": [1, 8, 8], "class_names": ["a", "b"]}
URI = "http://me:secret@host:5000"


def saved(folder: Path, method: str = "spire") -> SavedRun:
    """A saved run with random weights, loaded; with `spire`, of clients 0 and 5."""
    config = Config(
        model=replace(TINY, attention=(0,)) if method == "lora" else TINY,
        diffusion=STEPS,
        method=MethodConfig(method),
        tracking=TrackingConfig(uri=URI),
        eval=EvalConfig(batch_size=4),
    )
    model = FlatModel(config.model, config.method, 1)
    weights = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(0)) / 10
    save_run(folder / "model", config, model, weights.numpy(), MORE)
    for client_id in (0, 5) if method == "spire" else ():
        emb = torch.full((4,), client_id - 2.0)
        save_client(folder / "model", client_id, {"client_emb": emb})
    return SavedRun.load(folder)


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    return saved(tmp_path)


def test_what_is_saved_is_what_is_loaded(run: SavedRun) -> None:
    expected = torch.randn(run.model.layout.size, generator=torch.Generator().manual_seed(0)) / 10
    assert torch.equal(run.weights, expected)
    assert "secret" not in (run.folder / "config.json").read_text()
    assert run.config.tracking == TrackingConfig(uri=None)
    config = run.config
    assert (config.model, config.diffusion, config.method) == (TINY, STEPS, MethodConfig("spire"))
    assert (run.image_shape, run.class_names) == ((1, 8, 8), ("a", "b"))
    assert run.client_ids == [0, 5]
    assert run.client_state(5).parts["client_emb"].tolist() == [3.0] * 4
    assert run.client_state(None) == PrivateState()


def test_a_draw_depends_on_seed_and_client_alone(run: SavedRun) -> None:
    images = run.draw(5, 3, seed=1)
    assert (images.shape, images.dtype) == ((3, 1, 8, 8), np.float32)
    other, population = run.draw(0, 3, seed=1), run.draw(None, 3, seed=1)
    np.testing.assert_array_equal(run.draw(5, 3, seed=1), images)  # whoever was drawn in between
    np.testing.assert_array_equal(SavedRun.load(run.folder).draw(5, 3, seed=1), images)
    for different in (run.draw(5, 3, seed=2), other, population):
        assert not np.array_equal(different, images)


def test_guidance_keeps_to_the_interval_of_the_run(run: SavedRun) -> None:
    def drawn(*interval: float) -> np.ndarray:
        guided = replace(run.config.eval, guidance_interval=interval or None)
        one = replace(run, config=replace(run.config, eval=guided))
        return one.draw(5, 2, guidance=3.0)

    plain, everywhere = run.draw(5, 2), drawn()
    np.testing.assert_array_equal(drawn(1e8, 1e9), plain)  # no timestep is as noisy
    np.testing.assert_array_equal(drawn(0.0, 1e9), everywhere)
    for other in (plain, everywhere):
        assert not np.array_equal(drawn(0.0, 1.0), other)


def test_a_client_draws_with_the_guidance_that_it_has_chosen(run: SavedRun) -> None:
    assert (run.guidance(5), run.guidance(None), run.client_state(5).guidance) == (1.0, 1.0, None)
    emb = {"client_emb": torch.ones(4)}
    save_client(run.folder, 5, emb, guidance=2.5)
    assert (run.guidance(5), run.guidance(0), run.client_state(5).guidance) == (2.5, 1.0, 2.5)
    assert [run.scales(i) for i in (5, 0, None)] == [(2.5, 1.0), (1.0, 1.0), (1.0, 1.0)]
    assert run.scales(5, guidance=1.0) == (1.0, 1.0)


def test_an_unknown_client_and_an_unfinished_run_are_refused(run: SavedRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a client out of 0, 5, got 1: "):
        run.draw(1, 1)
    with pytest.raises(RunError, match="no client has a part of its own here, got 0: "):
        saved(tmp_path / "fedavg", "fedavg").client_state(0)
    (run.folder / "clients/client_5.safetensors").write_text("{")  # writing it was cut off
    with pytest.raises(RunError, match=r"client_5\.safetensors, got"):
        run.client_state(5)


def test_a_client_is_found_by_its_name_before_its_id(run: SavedRun) -> None:
    emb = {"client_emb": torch.ones(4)}
    for client_id, name in ((5, "caf\u00e9"), (6, "0")):
        save_client(run.folder, client_id, emb, name=name)
    assert run.client_names == {5: "caf\u00e9", 6: "0"}
    found = [run.id_of(client) for client in (None, 0, "5", "cafe\u0301", "0")]
    assert found == [None, 0, 5, 5, 6]
    np.testing.assert_array_equal(spire.draw(run, "caf\u00e9", 2), run.draw(5, 2))
    with pytest.raises(RunError, match="one of caf\u00e9, 0, got 'caf': did you mean caf\u00e9"):
        run.id_of("caf")


def test_what_a_client_that_arrives_never_reads_is_named(
    run: SavedRun, caplog: pytest.LogCaptureFixture
) -> None:
    joining_config(run, ["adapt.tune_epochs=2"])
    joining_config(run, ["adapt.lr=0.5", "privacy.adapt.epsilon=4"])
    assert all(key in caplog.text for key in ("adapt.tune_epochs", "adapt.lr"))


@pytest.mark.parametrize("client_id", [None, 5])
def test_a_client_is_exported_to_diffusers(
    run: SavedRun, client_id: int | None, tmp_path: Path
) -> None:
    """The folder is a backbone that draws as the client; a second client finds it taken."""
    folder, drawn = tmp_path / "pipeline", run.draw(client_id, 3)
    write_pipeline(run, client_id, folder)
    backbone = ModelConfig(d_emb=4, backbone=str(folder))
    model = FlatModel(backbone, MethodConfig("retrofit"), 1)
    stream = torch_generator(0, "sample", -1 if client_id is None else client_id)
    diffusion = Diffusion.of(STEPS, backbone=str(folder))
    again = draw(client_denoiser(model.net, None), diffusion, (1, 8, 8), 3, stream)
    np.testing.assert_allclose(again.numpy(), drawn, rtol=0, atol=1e-5)
    with pytest.raises(RunError, match="expected a new folder"):
        write_pipeline(run, client_id, folder)

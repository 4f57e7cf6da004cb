"""A run on a pre-trained model: weights that stay, a federated entrance, a known folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from small_runs import finished, small
from tiny_backbone import write_backbone

from pipeline.audit.audit import audit_run, audit_worker
from pipeline.config.load import overridden
from pipeline.config.schema import Config
from pipeline.experiment.pools import open_pool
from pipeline.inference.saved_run import SavedRun
from pipeline.results.result import Result
from pipeline.runs.record import load_start
from pipeline.tracking.outbox import read_points
from spire_core.errors import ConfigError
from spire_core.network.flat_model import tensors_hash
from spire_core.rng import torch_generator
from sweeps import cli

SETTINGS = ["data.image_size=8", "federation.num_clients=2", "federation.num_new_clients=1"]
SETTINGS += ["federation.tau=1", "federation.cohort_size=2", "federation.num_rounds=10"]
SETTINGS += ["client.batch_size=2", "client.warmup_rounds=0", "client.lr=0.01", "model.d_emb=4"]
SETTINGS += ["adapt.num_images=4", "eval.kid_subset_size=4", "eval.num_clients=null"]
SETTINGS += ["partition=iid", "partition.client_size=40"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("pipelines") / "ddpm")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retrofitted")


def config_of(backbone: Path, data: Path, root: Path, *more: str) -> Config:
    return small(data, root, *SETTINGS, f"model.backbone={backbone}", *more)


@pytest.fixture(scope="module")
def result(backbone: Path, mnist_root: Path, root: Path) -> Result:
    return finished(config_of(backbone, mnist_root, root, "method=retrofit"))


def sent(result: Result, name: str = "comm/up_bytes") -> float:
    """Bytes of the first round."""
    return next(p[name] for _, p in read_points(result.run_dir) if name in p)


def test_only_the_entrance_is_trained_and_sent(result: Result, backbone: Path) -> None:
    model = result.setting.model
    files = load_file(backbone / "unet" / "diffusion_pytorch_model.safetensors")
    kept = {n.removeprefix("network."): p for n, p in model.net.named_parameters()}
    del kept["emb_proj.weight"]
    assert tensors_hash(kept) == tensors_hash(files)  # after ten rounds and an adaptation
    assert len(result.pretraining.losses) == 10
    stored = load_file(result.run_dir / "model" / "backbone.safetensors")
    assert {name: tuple(p.shape) for name, p in stored.items()} == {"emb_proj.weight": (32, 4)}
    assert stored["emb_proj.weight"].abs().max() > 1e-3
    assert np.array_equal(stored["emb_proj.weight"].numpy().ravel(), result.pretraining.weights)
    (report,) = result.adaptation.reports
    assert report.num_trained == 4
    assert result.metrics["params/total"] == sum(p.numel() for p in files.values()) + 4 * 32 + 4


def test_a_round_sends_the_entrance_alone(result: Result) -> None:
    entrance, steps = 4 * 4 * 32, 4 * 4  # as float32; Adam's steps of each of four parts
    assert sent(result) == 2 * (3 * entrance + steps)  # with both moments, of two clients
    assert sent(result, "comm/down_bytes") == 2 * entrance  # there are no moments yet


def test_an_audit_computes_embeddings_from_the_entrances_messages(result: Result) -> None:
    began, _ = load_start(result.run_dir)
    words = ["client.opt_state=average", "client.private_moments=none"]
    config = overridden(began, words)
    leak = audit_run(result.run_dir, began, config, words, 1, lambda text: None).messages
    assert leak is not None
    assert leak.best == "moments"
    assert leak.cos > 0.99  # the gradient of each map has rank one, and the embedding as its row
    assert all(client.cos["search"] == 0.0 for client in leak.clients)


def test_a_saved_run_and_workers_know_the_backbone(
    result: Result, backbone: Path, tmp_path: Path
) -> None:
    run, setting = SavedRun.load(result.run_dir), result.setting
    drawn = run.draw(setting.new_ids[0], 2)
    assert np.array_equal(drawn, SavedRun.load(result.run_dir).draw(setting.new_ids[0], 2))
    assert not np.array_equal(drawn, run.draw(0, 2))
    stored = json.loads((result.run_dir / "model" / "config.json").read_text())
    assert stored["backbone_sha256"] == setting.hashes["backbone_sha256"]
    with open_pool(setting, tmp_path) as (pool, _):
        assert pool.num_workers == 1
    told = "expected the run's pre-trained model at"
    elsewhere = Path(shutil.move(backbone, tmp_path / "away"))
    try:
        with pytest.raises(ConfigError, match="expected the folder of a pipeline"):
            SavedRun.load(result.run_dir)
        shutil.copytree(elsewhere, backbone)
        scheduler = backbone / "scheduler" / "scheduler_config.json"
        scheduler.write_text(scheduler.read_text().replace("0.02", "0.03"))
        with pytest.raises(ConfigError, match=told):
            SavedRun.load(result.run_dir)
        with pytest.raises(ConfigError, match=told), open_pool(setting, tmp_path):
            pass
        with pytest.raises(ConfigError, match=told):
            audit_worker(setting, tmp_path)
    finally:
        shutil.rmtree(backbone, ignore_errors=True)
        shutil.move(elsewhere, backbone)


def test_a_client_becomes_a_pipeline_that_draws_the_same_images(
    result: Result, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (new_id,) = result.setting.new_ids
    run, folder = SavedRun.load(result.run_dir), tmp_path / "client"
    words = ["export", str(result.run_dir), "--diffusers", str(folder), f"tracking.root={root}"]
    assert cli.main([*words, "--client", str(new_id)]) == 0
    network, emb = UNet2DModel.from_pretrained(folder / "unet").eval(), run.client_state(new_id)
    x, t = torch.randn(2, 1, 8, 8, generator=torch_generator(0, "x")), torch.tensor([3, 9])
    model = result.setting.model
    with torch.no_grad():
        model.load(run.weights)
        expected = model.net(x, t, emb.parts["client_emb"].expand(2, -1))
        torch.testing.assert_close(network(x, t).sample, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model.net(x, t), expected, atol=1e-4)
    assert cli.main([*words, "--client", str(new_id)]) == 2
    assert "expected a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ("method=lora", "method.freeze=true", "method.rank=1"),
        ("method=bias", "method.freeze=true", "method.share_adapter=false"),
        ("method=retrofit", "method.projection=random", "method.entrance=blocks"),
    ],
    ids=lambda more: more[0],
)
def test_other_methods_adapt_the_same_network(
    backbone: Path, mnist_root: Path, root: Path, more: tuple[str, ...]
) -> None:
    words = (*more, "federation.num_rounds=2")
    found = finished(config_of(backbone, mnist_root, root, *words))
    rounds = 2 if "share_adapter=false" not in str(more) and "lora" in str(more) else 0
    assert len(found.pretraining.losses) == rounds
    (report,) = found.adaptation.reports
    model, (new_id,) = found.setting.model, found.setting.new_ids
    assert report.num_trained == (4 if "retrofit" in more[0] else model.layout.size)
    if "retrofit" in more[0]:  # without rounds it sends nothing, but its new clients are attacked
        began, _ = load_start(found.run_dir)
        audit = audit_run(found.run_dir, began, began, (), 1, lambda text: None)
        assert audit.messages is None
        assert audit.models is not None
    run = SavedRun.load(found.run_dir)
    assert not np.array_equal(run.draw(new_id, 2), run.draw(None, 2))

"""The listing that opens docs/algorithm.md computes what `spire run` computes, bit for bit."""

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.setup import prepare
from pipeline.inference.saved_run import SavedRun
from spire_core.network.flat_model import initial_weights
from spire_core.network.unet import UNet

PAGE = (Path(__file__).parents[4] / "docs" / "algorithm.md").read_text()
NUM_ROUNDS, TAU, EPOCHS, SEED = 2, 4, 2, 5
SIZES = [  # small, with clients of different sizes that pass their images more than once
    "data.name=folder",
    "data.image_size=16",
    "partition=dirichlet",
    "partition.alpha=3",
    "federation.num_clients=3",
    "federation.num_new_clients=2",
    "federation.cohort_size=3",
    f"federation.num_rounds={NUM_ROUNDS}",
    f"federation.tau={TAU}",
    f"adapt.epochs={EPOCHS}",
    "adapt.num_images=null",
    f"seed={SEED}",
]
QUICK = [  # whatever the listing does not compute, as little of it as there can be
    "eval.extractor=cifar10-cnn",
    "eval.every=0",
    "eval.num_images=4",
    "eval.num_loss_images=4",
    "eval.kid_subset_size=2",
    "diffusion.sample_steps=1",
    "tracking.enabled=false",
    "resources.pool=local",
]


def fenced(language: str) -> str:
    """Return the page's first block in this language."""
    match = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in "abc":
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(70):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_the_listing_is_the_product_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    command = fenced("sh").replace("\\\n", " ").split()
    assert command[:3] == ["spire", "run", "smoke"]
    places = [f"data.path={photos}", f"tracking.root={tmp_path}"]
    config = load_config("smoke", [*command[3:], *SIZES, *QUICK, *places])
    listing = ModuleType("listing")
    exec(compile(fenced("python"), "docs/algorithm.md", "exec"), listing.__dict__)

    run = SavedRun.load(run_experiment(config, None, Watcher()).run_dir)
    setup, d_emb = prepare(config), config.model.d_emb

    def images(client_id: int) -> torch.Tensor:
        own = setup.partition.split(client_id).train
        return torch.from_numpy(setup.images[own]).float() / 127.5 - 1

    unet = UNet(config.model, 3, has_embedding=True)
    initial = initial_weights(config.model, config.method, 3, SEED)
    unet.load_state_dict(run.model.named_tensors(initial))
    clients = {j: images(j) for j in setup.train_ids}
    sizes = [len(own) for own in clients.values()]
    assert len(set(sizes)) == len(sizes)
    assert min(sizes) < TAU * config.client.batch_size

    theta, e = listing.pretrain(unet, clients, d_emb, NUM_ROUNDS, TAU, SEED)
    for j in setup.new_ids:
        e[j] = listing.adapt(unet, theta, j, images(j), d_emb, EPOCHS, SEED)
    backbone = run.model.flatten(unet.state_dict())
    assert torch.equal(backbone, run.weights)
    assert not torch.equal(backbone, initial)
    assert list(e) == run.client_ids
    for j, e_j in e.items():
        assert torch.equal(e_j.detach(), run.client_state(j).parts["client_emb"])

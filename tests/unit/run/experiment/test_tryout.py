"""A first try on a folder: what is seen in it, the settings that follow, and what comes of them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spire
from pipeline.config.load import load_config
from pipeline.experiment.tryout import (
    PRESET,
    look,
    rounds_in,
    tried_words,
    words_for,
    write_page,
)
from pipeline.results.result import Result
from spire_core.errors import ConfigError, DataError, RunError
from spire_core.methods import CLIENT_EMB

TINY = ["federation.num_rounds=2", "model.width=8", "model.attention=[]", "eval.num_images=4"]
TINY += ["eval.num_loss_images=4", "adapt.epochs=1", "diffusion.sample_steps=2"]
TINY += ["resources.pool=local", "tracking.enabled=false", "partition.min_size=8"]


def paint(folder: Path, num: int, side: int = 18) -> None:
    folder.mkdir(parents=True)
    for i in range(num):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side + 3, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of three people."""
    folder = tmp_path_factory.mktemp("people")
    for name, num in (("ann", 12), ("bob & co", 16), ("cid", 20)):
        paint(folder / name, num)
    return folder


def test_a_folder_says_how_many_clients_of_what_size_it_has(people: Path) -> None:
    seen = look(people)
    assert seen.counts == {"ann": 12, "bob & co": 16, "cid": 20}
    with pytest.raises(ConfigError, match=r"--owners or --classes, .* --owners .people"):
        words_for(seen)
    natural = words_for(look(people, new="ann"), "ann")
    assert {"data.image_size=16", 'partition.new_clients=["ann"]'} <= {*natural}
    assert {"federation.num_clients=2", "federation.cohort_size=2"} <= {*natural}
    dealt = words_for(look(people, are_owners=False))
    assert {"partition=pathological", "federation.num_clients=6"} <= {*dealt}
    with pytest.raises(ConfigError, match="did you mean ann"):
        words_for(look(people, new="anne"), "anne")
    with pytest.raises(ConfigError, match="--new with people, got --classes"):
        look(people, are_owners=False, new="ann")
    for words in (natural, dealt):
        assert tried_words(load_config(PRESET, [*words, "federation.num_rounds=9"])) == words
    assert tried_words(load_config(PRESET, [*natural, "client.lr=0.5"])) is None
    assert rounds_in(natural, 9.0) > 2 * rounds_in(natural, 2.0) > 0


def test_people_with_few_images_are_named(tmp_path: Path) -> None:
    for name, num in (("ann", 20), ("bob", 3)):
        paint(tmp_path / name, num)
    with pytest.raises(DataError, match="2 people with 8 images each, got fewer of bob"):
        words_for(look(tmp_path, are_owners=True))
    run = ["data=folder", f"data.path={tmp_path}", "partition=natural"]
    assert tried_words(load_config(PRESET, run)) is None


@pytest.fixture(scope="module")
def result(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A short run on the people, of whom bob arrives later."""
    words = [*words_for(look(people, new="bob & co"), "bob & co"), *TINY]
    rounds = list[int]()
    root = f"tracking.root={tmp_path_factory.mktemp('root')}"
    result = spire.run(
        PRESET,
        [*words, root],
        is_quiet=True,
        on_round=lambda stats: rounds.append(stats.round_idx),
    )
    assert rounds == [0, 1]
    return result


def test_the_page_shows_each_person_before_and_after(result: Result) -> None:
    page = write_page(result, ["data=folder"]).read_text()
    titles = re.findall("<h2>(.*?) <small>", page)
    assert titles == ["bob &amp; co", "ann", "cid"]
    assert page.count('src="data:image/png;base64,') == 3 * 3
    assert 'src="http' not in page


def test_a_result_shows_itself_in_a_notebook(result: Result) -> None:
    shown = result._repr_html_()
    assert "<td>bob & co</td>" in shown.replace("&amp;", "&")
    assert "data:image/png;base64," in shown


def test_a_client_arrives_by_name_and_goes_on(result: Result) -> None:
    run = spire.load(result.run_dir)
    assert run.client_names == {0: "ann", 1: "cid", 2: "bob & co"}
    images = torch.rand(8, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    assert spire.adapt(run, images, client="dave").client_id == 3

    def emb() -> torch.Tensor:
        return run.client_state(run.id_of("dave")).parts[CLIENT_EMB]

    first = emb()
    with pytest.raises(RunError, match="a name that is free, got 'dave'"):
        spire.adapt(run, images, client="dave")
    slow = {"adapt.lr": 1e-9}
    again = spire.adapt(result.run_dir, images[:6], slow, client="dave", goes_on=True)
    assert (again.client_id, again.name, again.num_train + again.num_test) == (3, "dave", 6)
    torch.testing.assert_close(emb(), first, atol=1e-6, rtol=0)  # from there, not from zero
    assert first.abs().max() > 1e-3
    assert "dave" in again._repr_html_()
    for wrong in ("erin", None):
        with pytest.raises(RunError):
            spire.adapt(run, images, client=wrong, goes_on=True)
    assert spire.draw(result.run_dir, "dave", 2).shape == (2, 3, 16, 16)

"""The names of people's own classes are no part of a private model, whatever its epsilon."""

from pathlib import Path

from PIL import Image
from small_runs import finished, small

from pipeline.config.load import load_config
from pipeline.data.datasets import load_stored
from pipeline.experiment.export import published_classes
from pipeline.inference.arrival_images import held_back, load_arrival
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.layout import MODEL

TINY = ("eval.extractor=none", "adapt.num_images=8", "federation.num_rounds=1")
TINY += ("federation.cohort_size=2", "federation.num_clients=3", "federation.num_new_clients=1")
TINY += ("partition=natural",)
ADAPT = ("privacy.adapt.epsilon=4", "privacy.adapt.steps=2", "privacy.adapt.draws=2")
HIDDEN = "partition.hidden=[hidden]"


def save_photos(mnist_root: Path, root: Path) -> None:
    """Four clients with a class that all have, one that none trains on, and one of the first's."""
    images = load_stored("mnist", mnist_root, "test").images[:120, 0]
    for i, image in enumerate(images):
        class_name = "kept apart" if i == 4 else "hidden" if i < 8 else "usual"
        file = root / f"owner {i % 4}" / class_name / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


def test_a_class_of_one_client_is_not_beside_a_private_backbone(
    mnist_root: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    save_photos(mnist_root, photos)
    words = ["data=folder", f"data.path={photos}", HIDDEN, *TINY, *ADAPT]
    result = finished(small(mnist_root, tmp_path, *words))
    assert "kept apart" in result.setting.data.class_names
    files = [path for path in (result.run_dir / MODEL).rglob("*") if path.is_file()]
    assert [path for path in files if b"kept apart" in path.read_bytes()] == []
    run = SavedRun.load(result.run_dir)
    assert run.class_names == ("hidden",)  # which the settings name
    arriving = load_arrival(run, str(photos / "owner 0"), ["hidden", "usual"])
    assert held_back(run, arriving).tolist() == [True] + [False] * 28


def test_classes_are_published_without_privacy_and_of_known_data() -> None:
    own = ["data=folder", "data.path=photos", "data.image_size=16", HIDDEN, "partition=natural"]
    names = ("hidden", "kept apart")
    assert published_classes(load_config("smoke", own), names) == list(names)
    assert published_classes(load_config("smoke", [*own, *ADAPT]), names) == ["hidden"]
    assert published_classes(load_config("smoke", ADAPT), ("0", "1")) == ["0", "1"]

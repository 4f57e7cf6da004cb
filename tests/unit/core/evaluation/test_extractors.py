from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from spire_core.errors import DataError, WeightsError
from spire_core.evaluation.classifier import load_classifier
from spire_core.evaluation.extractors import (
    Extractor,
    auto_extractor,
    cached_features,
    make_extractor,
)
from spire_core.evaluation.kid import kid, kid_floor


class Counting:
    """Features that count how often they were computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1)[:, :4] * 2

    def extractor(self, name: str = "counting", weights_hash: str = "w0") -> Extractor:
        return Extractor(name, weights_hash, 4, self)


def images(num: int = 5, seed: int = 0) -> Tensor:
    return torch.rand(num, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_classifier_extractor_is_the_classifier_in_batches() -> None:
    extractor = make_extractor("mnist-cnn")
    classifier = load_classifier("mnist")
    many = images(300)
    features, logits = classifier(many)
    torch.testing.assert_close(extractor.features(many), features, rtol=1e-4, atol=1e-4)
    predictions = extractor.class_predictions(many)
    assert predictions is not None
    assert torch.equal(predictions, logits.argmax(1))


def test_extractors_by_name() -> None:
    assert auto_extractor("cifar10") == "cifar10-cnn"
    assert auto_extractor("folder") == "inception-v3-compat"
    assert auto_extractor("cifar10", "mnist-cnn") == "mnist-cnn"
    with pytest.raises(WeightsError, match="resnet"):
        make_extractor("resnet")


def test_features_are_computed_once_for_each_set_of_images_and_weights(tmp_path: Path) -> None:
    counting, cache = Counting(), tmp_path / "new"
    changed = images()
    changed[3, 0, 7, 7] += 1e-3
    for own in (images(), changed, images().reshape(5, 1, 4, 16), images(4)):
        for _ in range(2):
            found = cached_features(counting.extractor(), own, cache)
            assert torch.equal(found, own.flatten(1)[:, :4] * 2)
    cached_features(counting.extractor(weights_hash="w1"), images(), cache)
    cached_features(counting.extractor(name="other"), images(), cache)
    assert counting.calls == len(list(cache.iterdir())) == 6
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:60])  # cut off
    for _ in range(2):
        cached_features(counting.extractor(), images(), cache)
    assert counting.calls == 7


def test_images_that_are_not_finite_are_refused() -> None:
    diverged = images()
    diverged[0, 0, 0, 0] = torch.inf
    extractor = make_extractor("mnist-cnn")
    for compute in (extractor.features, extractor.class_predictions):
        with pytest.raises(DataError, match="finite images"):
            compute(diverged)


def test_inception_without_weights_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(WeightsError, match=r"eval\.extractor_weights=PATH"):
        make_extractor("inception-v3-compat")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Inception on a busy machine is ten times slower where two threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_inception_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with random weights, as torch-fidelity makes it; other files are refused."""
    path = tmp_path / "inception.pth"
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save({"weight": torch.zeros(2)}, path)
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    with pytest.raises(WeightsError, match="loaded from"):
        make_extractor("inception-v3-compat", path)
    torch.save(network.state_dict(), path)
    extractor = make_extractor("inception-v3-compat", str(path))
    features = extractor.features(images(2))
    assert extractor.class_predictions(images(2)) is None
    shown = ((images(2) + 1) * 127.5).round().to(torch.uint8).repeat(1, 3, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(features, network(shown)[0])
    assert len(extractor.weights_hash) == 16


def test_grey_images_are_repeated_where_a_classifier_takes_colours() -> None:
    colours, greys = make_extractor("cifar10-cnn"), make_extractor("mnist-cnn")
    repeated = colours.features(images().repeat(1, 3, 1, 1))
    torch.testing.assert_close(colours.features(images()), repeated, rtol=0, atol=0)
    colours.check_channels(1)
    with pytest.raises(WeightsError, match="colour images, got mnist-cnn"):
        greys.check_channels(3)


def test_no_extractor_has_features_of_no_numbers_and_no_kid(tmp_path: Path) -> None:
    extractor = make_extractor("none")
    features = cached_features(extractor, images(), tmp_path)
    assert features.shape == (5, 0)
    assert list(tmp_path.iterdir()) == []
    assert extractor.class_predictions(images()) is None
    scores = (kid(features, features), kid_floor(features[:2]))
    assert [score.is_known for score in scores] == [False, False]

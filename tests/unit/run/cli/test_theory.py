"""The theory experiments: the command, what is recorded, repeatability, verdicts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.cli.main import main
from pipeline.config.tracking import TrackingConfig
from pipeline.runs.record import find_run
from pipeline.theory import (
    backbone,
    components,
    failure,
    landscape,
    optimiser,
    readout,
    scaling,
    weights,
)
from pipeline.theory.config import EXPERIMENTS, TheoryConfig, load_theory
from pipeline.theory.outcome import Claim
from pipeline.theory.replicates import draw_replicates, scores, slope
from pipeline.theory.run import run_theory
from spire_core.errors import RunError
from spire_core.mixture.readout import confusion_matrix
from spire_core.mixture.two_components import normals


@pytest.fixture
def spire(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    """Runs `spire theory` in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    return lambda *argv: (main(["theory", *argv]), *capsys.readouterr())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments on fewer points, each of seconds."""
    sizes = {
        scaling: {"NUMS": (50, 100), "DIMS": (2, 16)},
        failure: {"DIMS": (16, 256), "SEPARATIONS": (0.5, 3.0)},
        optimiser: {"SEPARATIONS": (0.5, 3.0), "RATE_N": 200},
        components: {"SHAPES": (("general", 3), ("circle", 5))},
        backbone: {"SIZES": (0.0, 1.0), "CLIENTS": (1, 2)},
        landscape: {"SEPARATIONS": (0.5, 3.0), "WEIGHTS": (0.02,), "FEWEST": 200, "END": 1e-3},
        weights: {"NUMS": (16,), "DISTANCES": (2.0, 8.0)},
        readout: {
            "DIMS": (1, 16),
            "PER_CLASS": 5000,
            "OLD_CLIENTS": (8, 24),
            "WORLDS": 1,
        },
    }
    for module, constants in sizes.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)


def verdicts(claims: list[Claim]) -> list[bool | None]:
    return [claim.is_met for claim in claims]


# --- the command, and what is recorded ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_experiment_gives_the_same_numbers_whatever_runs_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIRE_DATA", str(tmp_path / "empty"))
    words = ["tracking.enabled=false", f"tracking.root={tmp_path}", "replicates=6"]
    together = run_theory(load_theory("all", words), "all")
    with pytest.raises(RunError, match="none of those"):  # no run that can be resumed
        find_run("last", TrackingConfig(root=str(tmp_path)))
    alone = run_theory(load_theory("backbone", words), "backbone")
    other = run_theory(load_theory("backbone", [*words, "seed=1"]), "backbone")
    assert list(together.outcomes) == list(EXPERIMENTS)
    of_gaussians = together.outcomes["landscape"].claims[:-5]  # the others want all steps
    assert len(of_gaussians) > 3
    for exact in (together.outcomes["bridge"].claims, of_gaussians):  # also for few replicates
        assert False not in verdicts(list(exact))
    texts = [str(run.outcomes["backbone"]) for run in (together, alone, other)]
    assert texts[0] == texts[1] != texts[2]
    assert all(path.stat().st_size > 5000 for path in together.figures.values())
    assert "spire data fetch mnist" in str(together.outcomes["readout"])  # a note, no failure


def test_a_run_is_recorded_in_mlflow(spire, new_database: Path) -> None:
    shutil.copy(new_database, Path.cwd())
    code, out, _ = spire("bridge", "--json", "--out", "figures")
    assert code == 0
    told = json.loads(out)
    assert [e["name"] for e in told["experiments"]] == ["bridge"]
    assert told["experiments"][0]["claims"][0]["is_met"] is True
    assert Path(told["experiments"][0]["figure"]).is_file()

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    run = client.get_run(told["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["theory/bridge/worst_difference"] < 1e-6
    assert run.data.metrics["theory/bridge/failed_claims"] == 0
    assert run.data.params["w"] == "0.3"
    kinds = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"plots", "tables", "claims", "config"} <= kinds


def test_a_claim_that_fails_is_exit_code_1(spire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of descent do not reach the weights, as enough replicates show."""
    for name, value in {"SHAPES": (("general", 3),), "STEPS": 2, "AVERAGED": 1}.items():
        monkeypatch.setattr(components, name, value)
    code, out, _ = spire("components", "replicates=200", "tracking.enabled=false")
    assert code == 1
    assert "FAIL general-3: n * MSE" in out


# --- measuring ----------------------------------------------------------------------------------


def test_replicates_come_in_blocks_of_independent_draws() -> None:
    sizes = []

    def measure(num, generator):
        sizes.append(num)
        return {"value": normals(generator, num)}

    found = scores(draw_replicates(TheoryConfig(), 5, 2**14, ("test_blocks", 0), measure))
    assert sizes == [2, 2, 1]
    assert found["value +-"] > 0.1  # equal streams would give equal values
    by_hand = scores({"x": torch.tensor([1.0, 3.0])})
    assert by_hand == pytest.approx({"x": 2.0, "x +-": 1.0})


def test_the_slope_of_a_power_law_is_its_power() -> None:
    n = pd.Series([10.0, 100.0, 1000.0])
    mean, error = slope(n, 3.0 * n**-1.5, 0.03 * n**-1.5)
    # Errors of 1 % at x = -1, 0, 1 in powers of ten: 0.01 / (sqrt(2) log 10).
    assert (mean, error) == pytest.approx((-1.5, 0.01 / (2**0.5 * np.log(10))))


def test_the_bound_holds_up_to_where_the_error_crosses_it() -> None:
    rows = pd.DataFrame({"m_t": [1.0, 2.0, 3.0], failure.MSE: [0.1, 1.0, 100.0], "bound": 10.0})
    assert failure.limit_of(rows) == pytest.approx(2.5)  # in logarithms, halfway from 2 to 3
    assert failure.limit_of(rows[:2]) is None


@pytest.mark.slow
def test_descent_finds_the_weights_of_any_shapes() -> None:
    outcome = landscape.run_any_shapes(load_theory("landscape", ["replicates=60"]))
    assert verdicts(outcome.claims) == [True] * 5


@pytest.mark.slow
def test_likelihood_finds_the_weights_of_fixed_embeddings_and_shares_have_their_bias() -> None:
    found = weights.run(load_theory("weights", ["replicates=60"]))
    assert verdicts(list(found.claims)) == [True, True, True, None]


def test_a_classifiers_norm_and_distances_follow_from_its_predictions() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 4000)
    predictions = np.where(generator.random(len(labels)) < 0.1, 1 - labels, labels)
    found = readout.read_clients(load_theory("readout"), predictions, labels, (50, 200))
    assert verdicts(found.claims) == [None, True, None]
    assert found.numbers["shipped_norm"] == pytest.approx(1 / 0.8, rel=0.02)
    (rows,) = found.tables.values()
    few, many = rows[readout.OTHER_TV]
    assert few / many == pytest.approx(2.0, rel=0.15)


def test_a_confusion_matrix_that_is_counted_leaves_a_bias_that_grows_with_n() -> None:
    """With 30 images of a class in each half, C is off; by hand for n images, from both halves."""
    labels, generator = np.repeat(np.arange(3), 60), np.random.default_rng(1)
    predictions = np.where(generator.random(180) < 0.2, (labels + 1) % 3, labels)
    found = readout.read_clients(load_theory("readout"), predictions, labels, (100, 10_000))
    (rows,) = found.tables.values()
    halves = [confusion_matrix(predictions[i::2], labels[i::2], 3) for i in (0, 1)]
    few, many = rows[readout.OTHER]
    # Over Dirichlet(0.1) mixtures of three classes, E pi_j pi_k = (1 / 3 [j = k] + 0.1 / 3) / 1.3.
    moments = (np.eye(3) + 0.1) / 3.9
    off = np.linalg.inv(halves[1]) @ halves[0] - np.eye(3)
    bias = float(np.trace(off @ moments @ off.T))
    assert many - few == pytest.approx((10_000 - 100) * bias, rel=0.1)
    assert rows[readout.MSE][1] < rows["bound"][1] < many


def test_distances_by_hand() -> None:
    """From one old client the hull is a point; half the mass has to move, and KL is log 2."""
    old, new = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    (row,) = readout.distances([(old, new)]).to_dict("records")
    expected = dict.fromkeys((readout.HULL, readout.PROJECTION, readout.NEAREST), 0.5)
    expected |= {"KL": np.log(2.0), readout.PINSKER: np.sqrt(0.5 * np.log(2.0))}
    assert row == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "is_met"), [(0.909, False), (0.911, True), (1.189, True), (1.191, False)]
)
def test_descent_is_as_good_as_cramer_rao_up_to_four_errors(ratio: float, is_met: bool) -> None:
    row = {"means": "circle-5", components.OVER_T: 2.0 * ratio, components.CRAMER_RAO: 2.0}
    row |= {f"{components.OVER_T} +-": 0.02}
    assert components.ratio_claim(row).is_met is is_met

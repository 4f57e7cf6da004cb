"""The theory experiments as a whole: settings, repeatability, what is recorded, the command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cli.main import main
from pipeline.config.tracking import TrackingConfig
from pipeline.figures.style import OKABE_ITO
from pipeline.runs.record import find_run
from pipeline.theory.config import EXPERIMENTS, TheoryConfig, load_theory, theory_names
from pipeline.theory.failure import run_failure
from pipeline.theory.figures import panels_figure
from pipeline.theory.landscape import run_landscape
from pipeline.theory.new_clients import coverage_findings
from pipeline.theory.optimiser import run_optimiser
from pipeline.theory.outcome import Curve, Panel, Score, over_replicates, score, slope
from pipeline.theory.readout import run_readout
from pipeline.theory.run import RUN, run_theory
from pipeline.theory.shipped_classifier import readout_findings, shipped_findings
from spire_core.errors import ConfigError, RunError
from spire_core.mixture.readout import confusion_matrix
from spire_core.mixture.two_components import normals

ROOT = Path(__file__).parents[4]

SMALL = (
    "replicates=6",
    "scaling.nums=[50,100]",
    "scaling.dims=[2,16]",
    "failure.dims=[16]",
    "failure.separations=[0.5,3.0]",
    "failure.steps=40",
    "optimiser.separations=[0.5,3.0]",
    "optimiser.weights=[0.0,0.02,0.5]",
    "optimiser.replicates=5",
    "components.shapes=[general-3,circle-5]",
    "components.replicates=3",
    "components.slower=3",
    "components.steps=20",
    "components.averaged=10",
    "backbone.sizes=[0.0,1.0]",
    "backbone.clients=[1,2]",
    "backbone.replicates=6",
    "backbone.learned=4",
    "bridge.separations=[1.0]",
    "bridge.n=10",
    "landscape.separations=[0.5,3.0]",
    "landscape.weights=[0.02]",
    "landscape.steps=40",
    "landscape.replicates=5",
    "readout.dims=[1,16]",
    "readout.replicates=5",
    "readout.data=none",
    "readout.old_clients=[4,8]",
    "readout.worlds=1",
    "readout.new_clients=3",
)


@pytest.fixture
def spire(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    """Runs `spire theory` in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        try:
            code = main(["theory", *argv])
        except SystemExit as stopped:  # argparse's own way out
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    return call


def test_every_experiment_has_a_preset_and_all_has_every_experiment() -> None:
    assert set(RUN) == set(EXPERIMENTS)
    one_each = ["backbone", "bridge", "components", "landscape", "optimiser", "readout"]
    assert theory_names() == ["all", *one_each, "theorem"]
    assert load_theory("all").experiments == EXPERIMENTS
    assert load_theory("theorem").experiments == ("scaling", "failure")
    assert load_theory("theorem") == TheoryConfig(experiments=("scaling", "failure"))
    assert load_theory("theorem").replicates == 500


def test_a_file_of_ones_own_is_read_under_overrides(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("experiments: [bridge]\nbridge: {n: 7, separations: [1.5]}\n")
    config = load_theory(str(file), ["bridge.n=9", "w=0.25"])
    assert (config.bridge.n, config.bridge.separations, config.w) == (9, (1.5,), 0.25)


def test_the_committed_numbers_of_coverage_are_computed_again(
    mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of every experiment are met; those of coverage follow from labels, within seconds."""
    committed = (ROOT / "docs" / "theory" / "results.txt").read_text()
    assert "FAIL" not in committed
    assert [line[:2] for line in committed.splitlines() if line[1:2] == ":"] == [
        f"{letter}:" for letter in "ABCDEFGH"
    ]
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    bounds, *others = coverage_findings(load_theory("all")).claims
    assert bounds.is_met
    assert str(bounds).split(", with")[0] in committed
    assert len(others) == 2
    assert [claim for claim in others if str(claim) not in committed] == []


def test_an_experiment_gives_the_same_numbers_whatever_runs_beside(tmp_path: Path) -> None:
    off = ("tracking.enabled=false", f"tracking.root={tmp_path}", *SMALL)
    together = run_theory(load_theory("all", off), "all")
    with pytest.raises(RunError, match="none of those"):  # no run that can be resumed
        find_run("last", TrackingConfig(root=str(tmp_path)))
    alone = run_theory(load_theory("backbone", off), "backbone")
    other = run_theory(load_theory("backbone", (*off, "seed=1")), "backbone")
    assert [o.name for o in together.outcomes] == list(EXPERIMENTS)
    by_name = {o.name: o for o in together.outcomes}
    assert by_name["backbone"].tables == alone.outcomes[0].tables
    assert by_name["backbone"].tables != other.outcomes[0].tables
    assert all(path.stat().st_size > 5000 for path in together.figures)
    assert [path.stem for path in together.figures] == list(EXPERIMENTS)
    (clipped,) = [c for c in by_name["optimiser"].claims if c.text.startswith("the moment leaves")]
    # By hand: at w = 0 the moment has the mean 0, so that it is negative half of the time.
    assert clipped.is_met is None
    assert "up to 0%" not in clipped.text


def test_a_bound_that_holds_at_all_m_t_and_minimisers_are_told() -> None:
    config = load_theory("theorem", [*SMALL, "failure.separations=[0.5]", "failure.dims=[4,256]"])
    outcome = run_failure(config)
    assert sum("holds at all m_t up to 0.5" in claim.text for claim in outcome.claims) == 2
    minimum = outcome.tables["the loss at fixed t, averaged over all noise"]
    assert minimum["d"] == [4, 4, 256]  # at t = 0.1 and d = 256 the loss is flat
    assert minimum["asymptotic"][0] == pytest.approx(0.605, abs=1e-3)
    windows = outcome.tables[
        "n * MSE of descent without noise, by the number of last steps averaged"
    ]
    assert list(windows)[3:] == ["last 1", "last 20"]  # half of 40 steps are 20


def test_a_bound_that_fails_everywhere_is_told() -> None:
    changes = ["failure.separations=[5.5,4]", "failure.dims=[64]", "failure.times=[0.1]"]
    outcome = run_failure(load_theory("theorem", [*SMALL, *changes]))
    assert outcome.claims[0].text.startswith("d = 64: the bound fails from 4, where it is 1.21 and")
    assert not any("holds at all" in claim.text for claim in outcome.claims)


def test_more_curves_than_colours_are_drawn() -> None:
    names = [f"d = {d}" for d in range(2 * len(OKABE_ITO))]
    curve = Curve([(1.0, 1.0), (2.0, 2.0)])
    curves = dict.fromkeys(names, curve)
    curves |= {f"bound, {name}": replace(curve, is_reference=True) for name in names}
    panel = Panel("many", "x", "y", curves)
    (axes,) = panels_figure([panel], "many").axes
    assert len(axes.get_lines()) >= 2 * len(names)


def test_a_rate_that_is_measured_nowhere_is_a_note() -> None:
    changes = ["optimiser.separations=[6.0]", "optimiser.weights=[0.5]", "optimiser.steps=20"]
    claim = run_optimiser(load_theory("optimiser", [*SMALL, *changes])).claims[0]
    assert (claim.is_met, claim.text[:14]) == (None, "no factor per ")


def test_descent_finds_the_weights_of_any_shapes_unless_it_has_too_few_steps() -> None:
    changes = ["landscape.steps=600", "landscape.replicates=60", "landscape.separations=[0.1,3.0]"]
    full = run_landscape(load_theory("landscape", [*SMALL, *changes]))
    assert [claim.text for claim in full.claims if not claim.is_met] == []
    brief = run_landscape(load_theory("landscape", SMALL))
    failed = [claim.text for claim in brief.claims if not claim.is_met]
    assert any(text.startswith("descent over all t from 5 starts") for text in failed)


def test_mixtures_read_off_a_classifier_have_their_error_and_stay_below_the_bound() -> None:
    changes = ["readout.dims=[1,2,16]", "readout.replicates=100", "readout.worlds=2"]
    outcome = run_readout(load_theory("readout", [*SMALL, *changes]))
    assert [claim.is_met for claim in outcome.claims] == [True, True, None, True, None]
    rows = outcome.tables["d coordinates of no Gaussian, as n * MSE"]
    assert rows["bound"] == sorted(rows["bound"], reverse=True)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_a_classifiers_norm_and_distances_follow_from_its_predictions(num_classes: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), 4000)
    is_wrong = generator.random(len(labels)) < 0.1
    predictions = np.where(is_wrong, (labels + 1) % num_classes, labels)
    config = load_theory("readout", ["readout.images=[50,200]", "readout.clients=1500"])
    found = readout_findings(config, predictions, labels)
    assert [claim.is_met for claim in found.claims] == [None, True, None]
    if num_classes == 2:
        assert found.numbers["shipped_norm"] == pytest.approx(1 / 0.8, rel=0.02)
    (columns,) = found.tables.values()
    few, many = columns["TV, C of the other half"]
    assert few / many == pytest.approx(2.0, rel=0.15)


def test_a_confusion_matrix_that_is_counted_leaves_a_bias_that_grows_with_n() -> None:
    """With 30 images of a class in each half, C is off; by hand for n images, from both halves."""
    labels, generator = np.repeat(np.arange(3), 60), np.random.default_rng(1)
    predictions = np.where(generator.random(180) < 0.2, (labels + 1) % 3, labels)
    config = load_theory("readout", ["readout.images=[100,10000]", "readout.clients=1500"])
    found = readout_findings(config, predictions, labels)
    (columns,) = found.tables.values()
    halves = [confusion_matrix(predictions[i::2], labels[i::2], 3) for i in (0, 1)]
    inverse = np.linalg.inv(halves[1])
    few, many = columns["n * MSE, C of the other half"]
    # Over Dirichlet(0.1) mixtures of three classes, E pi_j pi_k = (1 / 3 [j = k] + 0.1 / 3) / 1.3.
    moments = (np.eye(3) + 0.1) / 3.9
    off = inverse @ halves[0] - np.eye(3)
    bias = float(np.trace(off @ moments @ off.T))
    assert many - few == pytest.approx((10_000 - 100) * bias, rel=0.1)
    assert columns["n * MSE"][1] < columns["bound"][1] < many


def test_no_images_are_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPIRE_DATA", str(tmp_path))
    found = shipped_findings(load_theory("readout"))
    assert found.tables == {}
    assert "spire data fetch mnist" in str(found.claims[0])
    assert str(found.claims[0]).startswith("note")


def test_replicates_come_in_blocks_of_independent_draws() -> None:
    sizes = []

    def measure(num, generator):
        sizes.append(num)
        return {"value": normals(generator, num)}

    found = over_replicates(5, 2**14, (0, "test_blocks", 0), measure)["value"]
    assert sizes == [2, 2, 1]
    assert found.error > 0.1  # equal streams would give equal values


def test_the_slope_of_a_power_law_is_its_power() -> None:
    points = [(n, Score(3.0 * n**-1.5, 0.01 * n**-1.5)) for n in (10, 100, 1000)]
    assert slope(points).mean == pytest.approx(-1.5)
    assert score(torch.tensor([1.0, 3.0])) == pytest.approx((2.0, 1.0))


def test_a_run_is_recorded_in_mlflow(spire, new_database: Path) -> None:
    shutil.copy(new_database, Path.cwd())
    code, out, _ = spire("bridge", *SMALL, "--json", "--out", "figures")
    assert code == 0
    told = json.loads(out)
    assert [e["name"] for e in told["experiments"]] == ["bridge"]
    assert told["experiments"][0]["claims"][0]["is_met"] is True
    assert Path(told["experiments"][0]["figure"]).is_file()
    assert Path("figures/results.txt").read_text().startswith("F: denoising over all t")

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    run = client.get_run(told["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["theory/bridge/worst_difference"] < 1e-6
    assert run.data.metrics["theory/bridge/failed_claims"] == 0
    assert run.data.params["bridge.n"] == "10"
    kinds = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"plots", "tables", "claims", "config"} <= kinds


def test_a_dry_run_prints_the_settings_and_runs_nothing(spire) -> None:
    code, out, _ = spire("theorem", "w=0.25", "--dry-run")
    assert code == 0
    assert "w: 0.25" in out
    assert not Path("mlflow.db").exists()
    code, out, _ = spire("theorem", "--dry-run", "--json")
    assert json.loads(out)["config"]["experiments"] == ["scaling", "failure"]


MISTAKES = [
    (["theorm"], "one of all, backbone"),
    ([], "required"),
    (["theorem", "bridge"], "expected one file or name"),
    (["theorem", "w=1.5"], "w in (0, 1), got 1.5"),
    (["theorem", "w=0"], "w in (0, 1), got 0.0"),
    (
        ["theorem", "failure.times=[-1.0]"],
        "failure.times in [1e-06",
    ),
    (["theorem", "scaling.m_t=-1"], "scaling.m_t in [1e-06"),
    (["theorem", "scaling.m_t=3"], "m_t between 0 and ||mu|| = 1.414, got 3.0"),
    (["theorem", "scaling.averaged=99"], "averaged in 1..32"),
    (["theorem", "replicates=1"], "replicates in [2"),
    (["theorem", "replicats=9"], "replicats"),
    (["theorem", "scaling=3"], "scaling"),
    (["theorem", "experiments=[scalling]"], "got 'scalling'"),
    (["optimiser", "optimiser.weights=[2.0]"], "optimiser.weights in [0, 1], got 2.0"),
    (["components", "components.shapes=[circle-1]"], "K of at least 2, got 'circle-1'"),
    (["components", "components.shapes=[cube-4]"], "got 'cube-4'"),
    (["components", "components.means=[[1.0,2.0]]"], "at least K = 2 means"),
    (["components", "components.means=[[1.0],[1.0],[2.0]]"], "coincide"),
    (["components", "components.means=[[1.0],[1.0,2.0]]"], "one length each"),
    (["components", "components.means=[[0.0],[0.1],[0.2]]"], "identify the weights"),
    (["backbone", "backbone.sizes=[-1.0]"], "backbone.sizes in [0"),
    (["backbone", "backbone.m_t=2.5"], "m_t between 0 and ||mu|| = 2, got 2.5"),
    (["readout", "readout.data=mnsit"], "did you mean mnist?"),
    (["readout", "readout.old_clients=[1]"], "readout.old_clients with which old clients have all"),
    (["landscape", "landscape.separations=[40]"], "separations in [1e-06, 6], got 40.0"),
    (["landscape", "landscape.weights=[1.0]"], "weights in (0, 1), got 1.0"),
    (["theorem", "scaling.nums=[50]"], "two different entries of scaling.nums or more, got [50]"),
    (["theorem", "scaling.dims=[4,4]"], "two different entries of scaling.dims or more"),
    (["theorem", "experiments=[failure]", "c=0.1"], "m_t between 0 and ||mu|| = 0.2, got 0.5"),
    (["optimiser", "w=0.5"], "a weight w that descent does not start from, got 0.5"),
    (["optimiser", "optimiser.steps=19"], "optimiser.steps of at least 20, got 19"),
    (["optimiser", "optimiser.d=1", "optimiser.m_t=2"], "m_t between 0 and ||mu|| = 1, got 2.0"),
    (["optimiser", "c=0.25"], "m_t between 0 and ||mu|| = 4, got 4.0"),
    (["components", "components.shapes=[]"], "entries of components.shapes, got none"),
    (["components", "components.concentration=0.001"], "raise components.concentration"),
]


@pytest.mark.parametrize(("argv", "part"), MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(spire, argv: list[str], part: str) -> None:
    code, out, err = spire(*argv)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert part in err


def test_a_claim_that_fails_is_exit_code_1(spire) -> None:
    """Two steps of descent do not reach the weights, as enough replicates show."""
    few = ("components.shapes=[general-3]", "components.slower=3", "components.replicates=200")
    few += ("components.steps=2", "components.averaged=1", "tracking.enabled=false")
    code, out, _ = spire("components", *few)
    assert code == 1
    assert "FAIL general-3: n * MSE" in out


def test_a_mistake_shows_before_any_experiment_has_run(spire) -> None:
    for dry in ([], ["--dry-run"]):
        code, _, _ = spire("all", "components.shapes=[circle-1]", *dry)
        assert code == 2
        assert not Path("runs").exists()


def test_a_folder_that_cannot_be_written_is_named(spire) -> None:
    Path("taken").write_text("")
    code, _, err = spire("bridge", "--out", "taken/here")
    assert code == 2
    assert "taken/here" in err


def test_a_file_that_is_no_yaml_is_named() -> None:
    file = Path(__file__)
    with pytest.raises(ConfigError, match="settings"):
        load_theory(str(file))


def test_help_names_the_presets(spire) -> None:
    code, out, _ = spire("--help")
    assert code == 0
    assert all(name in out for name in theory_names())

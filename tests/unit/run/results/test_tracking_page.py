"""docs/tracking.md names all that runs record, and no metric that none of them does."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher

PAGE = (Path(__file__).parents[4] / "docs" / "tracking.md").read_text()
NAMED = set(re.findall(r"`([^`\n]+)`", PAGE))
FAMILIES = [
    re.compile(".+".join(re.escape(fixed) for fixed in re.split(r"<[^>]+>", name)))
    for name in NAMED
    if "<" in name and not name.startswith("<")
]
STAGES = (
    "pretrain",
    "adapt",
    "forgetting",
    "text",
    "time",
    "comm",
    "memory",
    "params",
    "final",
    "best",
    "privacy",
    "system",
)
AUDITED = {f"privacy/{name}" for name in ("mia_auc", "mia_tpr")}
AUDITED |= {f"privacy/emb_{name}" for name in ("cos", "cos_chance", "identified")}
AUDITED |= {"privacy/emb_span", "privacy/emb_span_others"}  # of `spire audit`, after a run
PRIVATE = ("privacy.adapt.epsilon=4", "privacy.adapt.steps=2", "privacy.adapt.draws=2")
EVERYTHING = (  # what only some runs record
    ("method=spire", "adapt.early_stopping=true", "adapt.guidance=[1,2]", "eval.controls=true"),
    ("method=fedavg_ft", "adapt.tune_epochs=1", "adapt.lr=1e-4"),
    ("method=shared_rep", "federation.drop_rate=0.3", *PRIVATE),
)


# Prompts, on the few fonts that tests have.
TEXT = ("fonts-cpu", "federation.num_clients=4", "federation.num_new_clients=1")
TEXT += ("federation.cohort_size=2", "adapt.eval_every=1")


@pytest.fixture(scope="module")
def store(
    mnist_root: Path,
    fonts_root: Path,
    new_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> MlflowClient:
    """The tracking store after these runs."""
    root = tmp_path_factory.mktemp("tracked")
    shutil.copy(new_database, root)
    tiny = ["resources.pool=local", "federation.num_rounds=2", "eval.every=0", "adapt.epochs=2"]
    tiny += ["eval.num_images=8", "eval.num_loss_images=8", "diffusion.sample_steps=2"]
    tiny += ["federation.num_clients=96", "eval.num_clients=2"]  # with few images each
    tiny += ["tracking.log_model=false", f"tracking.root={root}", f"data.root={mnist_root}"]
    for more in EVERYTHING:
        run_experiment(load_config("smoke", [*tiny, *more]), "smoke", Watcher())
    preset, *more = TEXT
    words = [*tiny, *more, f"data.root={fonts_root}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
        run_experiment(load_config(preset, words), preset, Watcher())
    return MlflowClient(f"sqlite:///{root}/mlflow.db")


def files(store: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for file in store.list_artifacts(run_id, folder):
        if file.is_dir:
            yield from files(store, run_id, file.path)
        else:
            yield file.path


def unnamed(names: set[str]) -> list[str]:
    return sorted(
        name for name in names - NAMED if not any(family.fullmatch(name) for family in FAMILIES)
    )


def test_all_that_runs_record_is_on_the_page_and_no_metric_that_they_do_not(
    store: MlflowClient,
) -> None:
    experiment = store.get_experiment_by_name("spire")
    assert experiment is not None
    runs = store.search_runs([experiment.experiment_id])
    assert len(runs) == len(EVERYTHING) + 1
    metrics = {name for run in runs for name in run.data.metrics}
    sampled = [run for run in runs if "system/cpu_utilization_percentage" in run.data.metrics]
    assert [run.data.params["data.name"] for run in sampled] == ["fonts"]  # where it is switched on
    [sample, _] = store.get_metric_history(sampled[0].info.run_id, "system/disk_usage_megabytes")
    assert sample.step == 1
    assert sample.value > 0
    assert unnamed(metrics) == []
    assert unnamed({name for run in runs for name in run.data.tags}) == []
    for run in runs:
        world = {name: run.data.tags.get(name) for name in ("world.hull_tv", "world.nearest_tv")}
        assert {name: run.data.params.get(name) for name in world} == world
    assert unnamed({path for run in runs for path in files(store, run.info.run_id)}) == []
    told = {name for name in NAMED if re.fullmatch(rf"({'|'.join(STAGES)})/[\w/]+", name)}
    assert sorted(told - metrics - AUDITED) == []

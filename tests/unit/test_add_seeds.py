"""Finished seeds of a sweep, out of a real MLflow store, join the rows of a study."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks.add_seeds import add_seeds
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.tracker import Tracker

RATES = {"spire": 0.02, "fedavg_ft": 0.001}
SWEEP = {
    "name": "study",
    "axes": {"fit": [{"method": name, "adapt.lr": rate} for name, rate in RATES.items()]},
    "seeds": [4, 5],
}
Machine = Callable[[dict[tuple[int, str], float]], TrackingConfig]


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Machine:
    """Make the store of a machine that has finished these trials with these KIDs."""

    def store_of(kids: dict[tuple[int, str], float]) -> TrackingConfig:
        root = tmp_path_factory.mktemp("machine")
        shutil.copy(new_database, root)
        config = TrackingConfig(root=str(root), uri=f"sqlite:///{root}/mlflow.db")
        with Tracker.start(config, "study", {"spire.kind": "sweep"}) as parent:
            for (seed, method), kid in kids.items():
                tags = {"method": method, "partition_hash": f"p{seed}", "git_revision": "abc"}
                with Tracker.start(config, method, tags, parent.run_id) as tracker:
                    params = {"method.name": method, "seed": seed, "federation.num_rounds": 3}
                    params |= {"adapt.lr": RATES[method], "federation.num_new_clients": 2}
                    tracker.log_params(params)
                    new = {"client_id": [7, 8], "kid_after": [kid, kid], "nn_share": [0.5, None]}
                    tracker.log_table("tables/new_clients.json", pd.DataFrame(new))
                    old = {"client_id": [0], "kid": [0.1]}
                    tracker.log_table("tables/pretrain_round_3.json", pd.DataFrame(old))
        return config

    return store_of


def test_stretches_on_two_machines_add_up(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SWEEP))
    first = machine({(4, "spire"): 0.25, (4, "fedavg_ft"): 0.75, (5, "spire"): 1.0})
    assert add_seeds("study", first, tmp_path) == [4], "seed 5 lacks a trial"
    rows = pd.read_parquet(tmp_path / "study.parquet")
    assert len(rows) == 6
    assert dict(zip(rows.method, rows["adapt.lr"], strict=True)) == {
        "spire": "0.02",
        "fedavg_ft": "0.001",
    }
    assert rows.kid_after.dropna().tolist() == [0.25, 0.25, 0.75, 0.75]
    assert rows.kid_after.dtype == "float32"
    assert {"seed", "client_id", "partition_hash", "kid", "nn_share"} <= {*rows}
    assert not {"run_id", "federation.num_new_clients"} & {*rows}, "they say nothing more"

    second = machine({(s, m): 0.5 for s in (4, 5) for m in RATES})
    assert add_seeds("study", second, tmp_path) == [5], "seed 4 is there"
    assert add_seeds("study", second, tmp_path) == []
    both = pd.read_parquet(tmp_path / "study.parquet")
    pd.testing.assert_frame_equal(both[both.seed == 4], rows)
    assert both.groupby("seed").size().to_dict() == {4: 6, 5: 6}
    assert set(both[both.seed == 5].kid_after.dropna()) == {0.5}
    assert (both.dtypes == rows.dtypes).all()

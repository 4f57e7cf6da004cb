"""Eight trials write into one new SQLite store at once, as those of a sweep do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

NUM_WRITERS, NUM_ROUNDS = 8, 30
WRITE = """
import os, sys, traceback
import mlflow, mlflow.store.tracking.sqlalchemy_store
import numpy as np
import pandas as pd
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.tracker import Tracker

def write(i):
    with Tracker.start(TrackingConfig(root=sys.argv[1]), f"trial {i}", {}) as tracker:
        tracker.log_params({f"key{k}": k for k in range(80)})
        for step in range(1, int(sys.argv[3]) + 1):
            tracker.log_metrics({f"m{k}": i + step / 10 + k / 1000 for k in range(6)}, step)
            if step % 10 == 0:
                tracker.log_image("samples", np.full((8, 8, 3), step, np.uint8), step)
                tracker.log_table(f"tables/{step}.json", pd.DataFrame({"client_id": [i]}))

children = {}
for i in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        try:
            write(i)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children[pid] = i
codes = {children[pid]: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children}
sys.exit(str(codes) if any(codes.values()) else 0)
"""


@pytest.mark.slow
def test_every_number_of_eight_writers_is_there_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path), str(NUM_WRITERS), str(NUM_ROUNDS)]
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "spire"]
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == [f"trial {i}" for i in range(NUM_WRITERS)]
    for i in range(NUM_WRITERS):
        run = runs[f"trial {i}"]
        assert (run.info.status, len(run.data.params)) == ("FINISHED", 80)
        for k in range(6):
            history = client.get_metric_history(run.info.run_id, f"m{k}")
            assert [(m.step, m.value) for m in history] == [
                (step, i + step / 10 + k / 1000) for step in range(1, NUM_ROUNDS + 1)
            ]
        assert len(client.list_artifacts(run.info.run_id, "images")) == 6  # PNG and WebP
        assert len(client.list_artifacts(run.info.run_id, "tables")) == 3

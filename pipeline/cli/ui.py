"""MLflow's UI at a run or at the trials of a sweep, on its usual port if that is free."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

from omegaconf import OmegaConf

from pipeline.config.tracking import (
    SERVERS,
    UI_HOST,
    UI_PORT,
    TrackingConfig,
    run_address,
    tracking_uri,
    ui_address,
)
from pipeline.files.paths import mask
from pipeline.runs.layout import ARTIFACTS
from pipeline.runs.record import read_record
from spire_core.errors import RunError

POLL_S = 0.2


def address_of(run_dir: Path, config: TrackingConfig) -> str:
    """Return the address of a run, or of a sweep's trials, the best first, with all charts.

    RunError for a run that no store has.
    """
    record = read_record(run_dir)
    if not record["tracked"] or record["experiment_id"] is None:
        raise RunError(f"expected a run in a tracking store, got {run_dir.name}: name another")
    if record["kind"] != "sweep":
        return run_address(config, record["experiment_id"], record["run_id"])
    sweep = OmegaConf.load(run_dir / ARTIFACTS / "config" / "sweep.yaml")
    words = {
        "searchFilter": f"tags.mlflow.parentRunId = '{record['run_id']}'",
        "orderByKey": f"metrics.`{sweep.metric}`",
        "orderByAsc": str(sweep.mode == "min").lower(),
        "compareRunsMode": "CHART",
    }
    page, _, mode = ui_address(config, record["experiment_id"]).partition("?")
    return f"{page}/runs?{mode}&{urlencode(words, quote_via=quote)}"


def show(config: TrackingConfig, address: str, say: Callable[[str], object]) -> str:
    """Return the address, once the UI of a store that is no server has been served until Ctrl-C.

    `say` is told it when the UI answers. RunError if it does not start.
    """
    uri = tracking_uri(config)
    if uri.startswith(SERVERS):
        return address
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((UI_HOST, 0 if _answers(UI_PORT) else UI_PORT))  # where links of reports lead
        port = free.getsockname()[1]
    # Without a helper process for each of MLflow's kinds of jobs, which take a minute to start.
    given = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "ui", "--host", UI_HOST, "--port", str(port)]
    command += ["--workers", "1"]
    with tempfile.TemporaryFile() as told:
        server = subprocess.Popen(command, env=os.environ | given, stdout=told, stderr=told)
        try:
            while not _answers(port):
                if server.poll() is not None:
                    told.seek(0)
                    lines = told.read().decode(errors="replace").strip().splitlines()
                    got = lines[-1] if lines else "nothing"
                    raise RunError(
                        f"expected MLflow's UI of {mask(uri)}, got {got}: see spire doctor"
                    )
                time.sleep(POLL_S)
            address = address.replace(f":{UI_PORT}/", f":{port}/", 1)
            say(f"{address}\nCtrl-C ends it")
            with contextlib.suppress(KeyboardInterrupt):
                server.wait()
        finally:
            server.terminate()
            server.wait()
    return address


def _answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((UI_HOST, port)) == 0

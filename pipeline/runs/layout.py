"""The names of every file and folder in a run's folder, `<root>/runs/<run id>/`.

run.json                         the run's record: id, name, kind, store; preset, configuration and
                                 hashes of its data (`record`)
result.json, samples.png         the result of a finished run (`record`)
noise.key, noise.device          the key of private noise, and the kind of device on which it is
                                 added, until the run has a result or is stopped (`noise_key`)
scored.json                      clients that are scored, where the noise key draws cohorts
run.lock                         locked by the process that works on the run (`record`)
outbox.jsonl, outbox.done,
outbox.refused.jsonl             entries for the tracking store, and the relay's position
outbox.lock                      locked by the process that relays them
artifacts/                       files that entries of the outbox name
checkpoints/<round>/             server.safetensors and manifest.json
clients/<id>/<round>.safetensors private states of clients
evaluations/<round>.safetensors  evaluations of pre-training clients
model/                           the backbone, and clients' own parts below model/clients/
profile/                         traces of torch.profiler
samples/                         images that `spire sample` drew
people.html                      the page of `spire try`
audit.json                       the newest answer of `spire audit`
"""

import re
from pathlib import Path

RUNS = "runs"  # the folder of all runs, below the root
NOISE_KEY, NOISE_DEVICE = "noise.key", "noise.device"
RECORD, RESULT, LOCK = "run.json", "result.json", "run.lock"
GRID, SAMPLES, PAGE = "samples.png", "samples", "people.html"
OUTBOX, DONE, REFUSED = "outbox.jsonl", "outbox.done", "outbox.refused.jsonl"
OUTBOX_LOCK, ARTIFACTS = "outbox.lock", "artifacts"
CHECKPOINTS, STATE, MANIFEST = "checkpoints", "server.safetensors", "manifest.json"
CLIENTS, EVALUATIONS, MODEL = "clients", "evaluations", "model"
AUDIT, SCORED = "audit.json", "scored.json"
CLIENT_FILE = re.compile(r"client_(\d+)\.safetensors")  # of a finished model
PROFILE, PROFILE_TABLE, TRACE_SUFFIX = "profile", "operators.txt", ".pt.trace.json.gz"


def trace_path(run_dir: Path) -> Path | None:
    """Return the newest torch.profiler trace of a run, or None if there is none."""
    traces = (run_dir / PROFILE).glob(f"*{TRACE_SUFFIX}")
    return max(traces, key=lambda path: path.stat().st_mtime, default=None)

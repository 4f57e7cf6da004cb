"""Fingerprints of small runs that between them take every path: two versions are compared by them.

    git worktree add ../before PRE_DIET    # the commit below
    python benchmarks/fingerprints.py --checkout ../before --out /tmp/before.json
    python benchmarks/fingerprints.py --compare /tmp/before.json

Each run is a command in a process and a SPIRE_ROOT of its own, on real MNIST or on images and a
pre-trained network that the script makes from seeds. Of a run are compared: the state (backbone and
clients' own parts, after adaptation), the final scores but durations, the pixels of the picture
that it draws, and the partition. `--compare` names what differs. The exit code is 1 if anything
does, or if runs that must agree (another pool, more actors, SIGKILL and resume) do not.

The numbers are those of one kind of machine and one version of torch: on others all may differ, so
both versions have to run on the same one. `fingerprints.json` has those of one machine.
Needs `SPIRE_DATA`, or fetches MNIST into ./data. All runs take about six minutes on two cores.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

# The commit that has this table of runs, and all of the code from before the diet.
PRE_DIET = "7b08b7039caa5bdaa0fa2221f6b9ccbe44ebc8ff"
REPOSITORY = Path(__file__).resolve().parents[1]
AT_ONCE = 2  # runs, each of which keeps about one core busy
COMMAND_S = 600.0  # for one command, however busy the machine is
KILLED_AFTER = "round 2"  # of 4, as the progress on stderr says it
NOT_SCORES = ("time/", "memory/", "duration")
BASE = """
    tracking.enabled=false tracking.checkpoint_every=1 resources.pool=local
    partition=inner_dirichlet partition.client_size=48
    federation.num_clients=5 federation.num_new_clients=2
    federation.cohort_size=3 federation.num_rounds=4
    adapt.num_images=24 diffusion.sample_steps=2
    eval.every=2 eval.num_images=8 eval.num_loss_images=8 eval.kid_num_subsets=2
"""
TWO_ACTORS = "resources.pool=ray resources.num_actors=2"
# Clients that exist. INPUTS: the folder of what this script makes.
PEOPLE = """
    data=folder data.path=INPUTS/people data.image_size=16
    partition=natural partition.client_size=null eval.extractor=mnist-cnn
"""
BACKBONE = "model.backbone=INPUTS/backbone"
NOISE_KEY = "privacy.noise_key=guard"
PRIVATE_ADAPT = f"{NOISE_KEY} privacy.adapt.epsilon=8 privacy.adapt.steps=4 privacy.adapt.draws=2"
PRIVATE_ROUNDS = f"{NOISE_KEY} privacy.rounds.epsilon=2 client.opt_state=reset client.engine=loop"
RUNS = {  # name: what is set on top of BASE
    "spire": "",
    "fedavg_ft": "method=fedavg_ft",
    "shared_rep": "method=shared_rep",
    "fedavg": "method=fedavg",
    "local": "method=local",
    "killed-resumed": "",
    "ray-1-actor": "resources.pool=ray resources.num_actors=1",
    "ray-2-actors": TWO_ACTORS,
    "engine-loop": "client.engine=loop",
    "engine-grouped": "client.engine=grouped client.group_size=2",
    "precision-bf16": "client.precision=bf16",
    "compression-int8": "client.compression=int8",
    "compression-top_k": "client.compression=top_k client.top_k_fraction=0.1",
    "opt_state-reset": "client.opt_state=reset",
    "private_moments-none": "client.private_moments=none",
    "prox": "client.prox_mu=1",
    "shared_rep-alternate": "method=shared_rep method.phases=alternate",
    "shared_rep-local_init-mean": "method=shared_rep adapt.local_init=mean",
    "adapt-init-mean": "adapt.init=mean",
    "adapt-early_stopping": "adapt.early_stopping=true adapt.epochs=12 adapt.lr=30",  # stops
    "adapt-guidance": "adapt.guidance=[1,2,4]",
    "adapt-tune_epochs": "method=fedavg_ft adapt.tune_epochs=1",
    "adapt-average": "adapt.schedule=cosine adapt.average=0.5 adapt.draws=2",
    "server-fedavgm-ema": "server.optimizer=fedavgm server.ema=0.8",
    "server-fedadam-ema": "server.optimizer=fedadam server.lr=0.001 server.ema=0.8",
    "dropped": "federation.drop_rate=0.4",
    "dropped-ray": f"federation.drop_rate=0.4 {TWO_ACTORS}",
    "secure": "federation.secure_aggregation=true",
    "secure-ray": f"federation.secure_aggregation=true {TWO_ACTORS}",
    "private-adapt": PRIVATE_ADAPT,
    "private-adapt-release": f"{PRIVATE_ADAPT} privacy.adapt.mechanism=one_release",
    "private-adapt-batches": f"{PRIVATE_ADAPT} method=fedavg_ft privacy.adapt.batch_size=8",
    "private-rounds": PRIVATE_ROUNDS,
    "private-rounds-ray": f"{PRIVATE_ROUNDS} {TWO_ACTORS}",
    "local_epochs": "federation.local_epochs=1 partition=iid",
    "eps-linear-ddim": """
        diffusion.prediction=eps diffusion.schedule=linear diffusion.sampler=ddim eval.guidance=1.5
    """,
    "test_split": "eval.reference=test_split eval.controls=true",
    "population": """
        partition=independent federation.num_clients=2000 eval.num_clients=4 seed=1
    """,
    "natural": f"{PEOPLE} partition.hidden=[rising]",
    "words": f"""
        {PEOPLE} data.metadata=people.csv data.clients=author
        model.text=words model.words=[bar,falling,flat,rising,steep]
        client.text_dropout=0.2 eval.text_guidance=2
    """,
    "retrofit": f"{BACKBONE} method=retrofit",
    "retrofit-blocks": f"{BACKBONE} method=retrofit method.entrance=blocks",
    "lora": f"{BACKBONE} method=lora method.freeze=true",
    "bias": f"{BACKBONE} method=bias",
}
ARRIVALS = {  # name: what `spire adapt` is told, after a run with BASE
    "arrival": "",
    "arrival-private": f"{NOISE_KEY} --epsilon=8 privacy.adapt.steps=4 privacy.adapt.draws=2",
}
# Too few replicates for some claims, which fail.
THEORY = "tracking.enabled=false replicates=6"
THEORY_PRE_DIET = f"""{THEORY}
    optimiser.replicates=6 components.replicates=6 components.slower=6
    backbone.replicates=6 backbone.learned=6 landscape.replicates=6
    readout.replicates=6 readout.clients=6
"""
NAMES = (*RUNS, *ARRIVALS, "theory")
SAME = {  # runs whose numbers must be those of another
    "killed-resumed": "spire",
    "ray-1-actor": "spire",
    "ray-2-actors": "spire",
    "dropped-ray": "dropped",
    "secure-ray": "secure",
    "private-rounds-ray": "private-rounds",
}


class Failed(Exception):
    """A command did not end as it should."""


@dataclass(frozen=True)
class Shell:
    """Runs commands of the code in `checkout`; their runs go to `root`."""

    checkout: Path
    inputs: Path
    root: Path

    def start(self, command: str) -> subprocess.Popen[str]:
        others = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
        env = {key: value for key, value in os.environ.items() if key not in others}
        env.setdefault("SPIRE_DATA", str(Path("data").resolve()))
        words = [word.replace("INPUTS", str(self.inputs)) for word in command.split()]
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words],
            cwd=self.checkout,
            env=env | {"PYTHONPATH": str(self.checkout), "SPIRE_ROOT": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def text(self, command: str, exit_codes: Sequence[int] = (0,)) -> str:
        """Return what a command prints."""
        with self.start(command) as process:
            try:
                out, err = process.communicate(timeout=COMMAND_S)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise Failed(f"no end after {COMMAND_S:.0f} s") from error
        if process.returncode not in exit_codes:
            raise Failed(f"exit code {process.returncode}: {err[-2000:]}")
        return out

    def told(self, command: str) -> dict[str, Any]:
        """Return the object that a command prints."""
        return json.loads(self.text(f"{command} --json"))

    def kill(self, command: str) -> None:
        """Start a command and send SIGKILL when its progress says KILLED_AFTER."""
        with self.start(command) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(KILLED_AFTER):
                    process.kill()
        if process.returncode != -signal.SIGKILL:
            raise Failed(f"ended by itself with {process.returncode}, before SIGKILL")


def numbers(name: str, shell: Shell) -> dict[str, Any]:
    """Return what is compared of one run."""
    if name == "theory":
        is_pre_diet = (shell.checkout / "pipeline/theory/presets").exists()
        command = f"theory all {THEORY_PRE_DIET if is_pre_diet else THEORY}"
        tables = shell.text(command, exit_codes=(0, 1)).partition("CPU seconds")[0]
        if not tables:
            raise Failed("no tables were printed")
        return {"tables": sha256(" ".join(tables.split()).encode())}
    command = f"run smoke {BASE} {RUNS.get(name, '')}"
    if name == "killed-resumed":
        shell.kill(command)
        told = shell.told("resume last")
    else:
        told = shell.told(command)
    if name in ARRIVALS:
        data = "--data mnist --classes 3,7 --num-images 24"
        files = shell.told(f"adapt last {data} {ARRIVALS[name]}")["artifacts"]
        return {"state": tensors(files["client"]), "pixels": pixels(files["samples"])}
    scores = {k: v for k, v in told["metrics"].items() if not any(p in k for p in NOT_SCORES)}
    return {
        "state": told["state_fingerprint"],
        "scores": scores | {f"diagnosis {d['name']}": True for d in told["diagnoses"]},
        "pixels": pixels(told["artifacts"]["samples"]),
        "partition": told["partition_hash"],
    }


def numbers_or_failure(name: str, shell: Shell) -> dict[str, Any] | Failed:
    began = time.monotonic()
    try:
        return numbers(name, shell)
    except Failed as error:
        return error
    finally:
        print(f"{name:26} {time.monotonic() - began:6.1f} s", flush=True)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pixels(png: str) -> str:
    image = np.asarray(Image.open(png))
    return sha256(repr(image.shape).encode() + image.tobytes())


def tensors(file: str) -> str:
    content = sorted(load_file(file).items())
    return sha256(b"".join(name.encode() + value.numpy().tobytes() for name, value in content))


def make_people(folder: Path) -> None:
    """Draw clients that exist: each has bars of four directions in its own grey and width."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[-7.5:8, -7.5:8]
    rows = []
    for person in range(9):
        for i in range(28):
            direction = i // 7
            name = ("flat", "falling", "steep", "rising")[direction]
            angle = direction * np.pi / 4
            distance = y * np.cos(angle) - x * np.sin(angle) - generator.uniform(-4, 4)
            is_ink = np.abs(distance) < 1 + person % 3
            path = f"person{person}/{name}/{i:02}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8(is_ink * (95 + 20 * person))).save(folder / path)
            rows.append((path, f"person{person}", f"{name} bar"))
    with open(folder / "people.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "author", "caption"), *rows])


def make_backbone(folder: Path) -> None:
    """Write a pipeline of diffusers with random weights, for grey images of 16 x 16 pixels."""
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(network, DDPMScheduler(num_train_timesteps=50)).save_pretrained(folder)


def differing(now: dict[str, Any], then: dict[str, Any]) -> str:
    """Return the names of the numbers in which two runs differ."""
    keys = [key for key in {**then, **now} if now.get(key) != then.get(key)]
    if "scores" in keys:
        ours, others = now.get("scores", {}), then.get("scores", {})
        keys += [key for key in {**others, **ours} if ours.get(key) != others.get(key)]
    return ", ".join(keys)


def compared(runs: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """Return a line for each run whose numbers are not those of its twin, or not those before."""
    lines = []
    for name, now in runs.items():
        twin = runs.get(SAME.get(name, name), now)
        if keys := differing(now, twin):
            lines.append(f"{name} is not like {SAME[name]}: {keys}")
        if before is not None and name not in before:
            lines.append(f"{name}: not in the file")
        elif before is not None and (keys := differing(now, before[name])):
            lines.append(f"{name} differs: {keys}")
    return lines


def machine() -> dict[str, str]:
    """Return what the numbers depend on beside the code."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    model = next((one.split(":")[1].strip() for one in lines if one.startswith("model name")), "")
    return {"cpu": model or platform.machine(), "torch": torch.__version__}


def revision(checkout: Path) -> str:
    """Return the commit of a checkout, and whether its product has changes."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "spire_core", "pipeline", "sweeps")
    return git("rev-parse", "HEAD") + (" with changes" if changed else "")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    text = "whose code runs (this repository)"
    parser.add_argument("--checkout", type=Path, default=REPOSITORY, metavar="DIR", help=text)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="numbers from before")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=NAMES, default=NAMES)
    args = parser.parse_args(argv)
    before = json.loads(args.compare.read_text()) if args.compare else None
    checkout, began = args.checkout.resolve(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spire-") as folder:
        inputs = Path(folder)
        make_people(inputs / "people")
        make_backbone(inputs / "backbone")
        Shell(checkout, inputs, inputs).told("data fetch mnist")
        shells = [Shell(checkout, inputs, inputs / name) for name in args.only]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(
                zip(args.only, pool.map(numbers_or_failure, args.only, shells), strict=True)
            )
    runs = {name: one for name, one in found.items() if not isinstance(one, Failed)}
    lines = [f"{name} failed: {one}" for name, one in found.items() if isinstance(one, Failed)]
    told = {"commit": revision(checkout), "machine": machine(), "runs": runs}
    if args.out:
        args.out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{len(runs)} runs in {time.monotonic() - began:.0f} s, commit {told['commit']}")
    if before is not None and before["machine"] != told["machine"]:
        print(f"another machine: {before['machine']} then, {told['machine']} now")
    lines += compared(runs, before and before["runs"])
    print("\n".join(lines) or "all as expected")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

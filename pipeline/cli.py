"""The verbs of the command `spire`: each lets the package do its work, and answers.

Torch, Ray, MLflow and matplotlib are imported inside the verbs, so that `spire --help` answers at
once.
"""

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pipeline.command import (
    AddVerb,
    Answer,
    add_mine,
    add_verb,
    allowed,
    run_command,
    say,
    split_one,
)
from pipeline.sync import add_sync
from pipeline.theory_cli import add_theory

if TYPE_CHECKING:
    from pipeline.result import Result
    from pipeline.saved_run import SavedRun
    from pipeline.schema import Config

DEFAULT_PRESET = "mnist-cpu"
MAX_DRAWN = 100_000  # images at once


def main(argv: Sequence[str] | None = None, more_verbs: Sequence[AddVerb] = ()) -> int:
    """Run `spire` as `run_command` does; `more_verbs` are of packages that build on this one."""
    own = (_add_run, _add_resume, _add_adapt, _add_sample, _add_data)
    return run_command(argv, (*own, add_theory, _add_doctor, add_sync, *more_verbs))


# --- the verbs ----------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> Answer:
    """Run one experiment, or with `--dry-run` say what it would be."""
    from pipeline.config import load_config
    from spire_core.errors import ConfigError

    preset, overrides = _preset_and_settings(args.words)
    config = load_config(preset, [*overrides, *(["tracking.profile=true"] * args.profile)])
    if args.profile and not config.method.record.is_federated:
        raise ConfigError(
            f"expected a method with rounds to profile, got {config.method.name}: leave out "
            "--profile"
        )
    _fetch_if_missing(config.data.name, config.data.root, config.data.path)
    if args.dry_run:
        return _dry_run(config, preset)
    with _starting_cluster(config):
        from pipeline.experiment import run_experiment
        from pipeline.progress import Progress, Watcher

        with contextlib.closing(Watcher() if args.quiet else Progress()) as watcher:
            return _finished(run_experiment(config, preset, watcher), preset)


def resume(args: argparse.Namespace) -> Answer:
    """Go on with an interrupted run; of a finished one, say again what it found."""
    from pipeline.config import load_config
    from pipeline.ownership import READ, begun_here, refuse_links
    from pipeline.run_files import load_result
    from pipeline.runs import find_run, tracking_root
    from pipeline.start_file import load_start

    changeable = ("tracking.", "resources.", "federation.client_timeout_s=", "data.root=")
    overrides = allowed(args.words, (*changeable, *(f"{key}=" for key in READ)))
    given = load_config(None, overrides).tracking
    if "://" in args.run:
        from pipeline.storage import restore, storage_of

        run_dir = restore(args.run, given, say)
        if not any(word.startswith("tracking.storage=") for word in overrides):
            given = replace(given, storage=storage_of(args.run))
    else:
        run_dir = find_run(args.run, given)
    refuse_links(run_dir, begun_here(run_dir, tracking_root(given)) is not None)
    if args.mine:
        from pipeline.claim import claim

        claim(run_dir, given, overrides)
    if (told := load_result(run_dir)) is not None:
        return Answer(f"run {told['run_id']} has finished: spire sample {told['run_id']}", told)
    config, preset = load_start(run_dir, given, overrides)
    _fetch_if_missing(config.data.name, config.data.root, config.data.path)
    with _starting_cluster(config):
        from pipeline.experiment import resume_experiment
        from pipeline.progress import Progress, Watcher

        with contextlib.closing(Watcher() if args.quiet else Progress()) as watcher:
            return _finished(resume_experiment(run_dir, config, watcher, preset=preset), preset)


def adapt(args: argparse.Namespace) -> Answer:
    """Fit the part of a client that arrives after a run has ended."""
    from pipeline.config import load_config

    limit = [] if args.num_images is None else [f"adapt.num_images={args.num_images}"]
    overrides = [*args.words, *limit]
    saved = _saved_run(args.run, overrides, ("adapt.", "tracking.", "data.root="))
    stored = [f"adapt.{k}={json.dumps(v)}" for k, v in asdict(saved.config.adapt).items()]
    config = load_config(None, [*stored, *overrides])
    root = config.data.root or saved.config.data.root
    from pipeline.arrival import adapt_arrival, load_arrival
    from pipeline.arrival_text import arrival_json, arrival_table
    from pipeline.known_datasets import SPECS

    if args.data in SPECS:
        _fetch_if_missing(args.data, root, None)
    images, mixture = load_arrival(saved, args.data, args.classes, root)
    say(f"fitting a new client for up to {config.adapt.epochs} epochs")
    arrival = adapt_arrival(saved, images, config.adapt, args.client, mixture)
    return Answer(arrival_table(arrival), arrival_json(arrival))


def sample(args: argparse.Namespace) -> Answer:
    """Draw images as a client of a finished run, or as its population."""
    saved = _saved_run(args.run, args.words, ("tracking.",))
    import numpy as np
    from PIL import Image

    from pipeline.disk import writable_png
    from pipeline.image_grids import image_grid

    saved.client_state(args.client)  # a client that cannot be drawn leaves no empty folder
    who = "population" if args.client is None else f"client_{args.client}"
    png = writable_png(args.out or saved.folder.parent / "samples" / f"{who}_seed{args.seed}.png")
    guidance = saved.config.eval.guidance if args.guidance is None else args.guidance
    images = saved.draw(args.client, args.num, args.seed, guidance)
    npz = png.with_suffix(".npz")
    np.savez_compressed(npz, images=images)
    Image.fromarray(image_grid(images, 8)).save(png)
    values = {"client_id": args.client, "num_images": args.num, "seed": args.seed}
    values |= {"guidance": guidance, "artifacts": {"png": str(png), "npz": str(npz)}}
    return Answer(f"{args.num} images: {png} and {npz}", values)


def data_fetch(args: argparse.Namespace) -> Answer:
    """Get a data set, unless it is there and intact."""
    from pipeline.fetch import fetch

    path = fetch(args.name, args.root, args.source, log=say)
    return Answer(str(path), {"name": args.name, "path": str(path)})


def data_show(args: argparse.Namespace) -> Answer:
    """Say, and draw with `--out`, which client holds how many images of each class."""
    from pipeline.config import load_config

    preset, overrides = _preset_and_settings(args.words)
    config = load_config(preset, overrides)
    _fetch_if_missing(config.data.name, config.data.root, config.data.path)
    from pipeline.disk import writable_png
    from pipeline.figures import partition_figure
    from pipeline.setting import partitioned
    from pipeline.setting_text import partition_json, partition_text

    data, partition = partitioned(config)
    labels, names = data.labels, data.class_names
    told = partition_json(partition, labels, names)
    text = partition_text(told)
    if args.out:
        shown = partition.shown
        counts = shown.class_counts(labels, len(names))
        path = writable_png(args.out)
        figure = partition_figure(counts, names, len(shown.train_clients), shown.client_ids)
        figure.savefig(path)
        told["artifacts"] = {"png": str(path)}
        text += f"\ndrawn in {path}"
    return Answer(text, told)


def doctor(args: argparse.Namespace) -> Answer:
    """Say what would run where, what is missing, and how to get it."""
    from pipeline.doctor import doctor_text, examine

    found = examine(args.metrics)
    return Answer(doctor_text(found), found, 0 if found["ok"] else 1)


# --- what they share ----------------------------------------------------------------------------


def _dry_run(config: "Config", preset: str) -> Answer:
    from pipeline.doctor import plan_here
    from pipeline.setting import prepare
    from pipeline.setting_text import setting_json, setting_text

    plan, setting = plan_here(config), prepare(config)
    told = setting_json(setting, preset, plan)
    return Answer(setting_text(told, plan), told)


def _starting_cluster(config: "Config") -> contextlib.AbstractContextManager[Any]:
    """Let Ray, if it is asked for, start beside what comes before the clients: seconds of imports.

    What is wrong with settings or data that are looked at meanwhile ends it again.
    """
    if config.resources.pool == "local":
        return contextlib.nullcontext()
    from pipeline.ray_cluster import starting_cluster

    return starting_cluster()


def _finished(result: "Result", preset: str | None) -> Answer:
    from pipeline.result_text import result_json, result_table

    return Answer(result_table(result), result_json(result, preset))


def _fetch_if_missing(name: str, root: str | None, source_dir: str | None) -> None:
    from pipeline.fetch import fetch_if_missing

    fetch_if_missing(name, root, source_dir, say)


def _saved_run(run: str, overrides: Sequence[str], prefixes: tuple[str, ...]) -> "SavedRun":
    """Return a finished run; ConfigError for an override of what that run has already fixed."""
    from pipeline.config import load_config
    from pipeline.ownership import refuse_links
    from pipeline.runs import find_run
    from pipeline.saved_run import SavedRun

    overrides = allowed(overrides, prefixes)
    run_dir = find_run(run, load_config(None, overrides).tracking)
    refuse_links(run_dir)  # it is going to be written into
    return SavedRun.load(run_dir)


def _preset_and_settings(words: Sequence[str]) -> tuple[str, list[str]]:
    preset, settings = split_one(words, "preset")
    return preset or DEFAULT_PRESET, settings


# --- what can be typed --------------------------------------------------------------------------


def _add_run(verbs: Any) -> None:
    parser = add_verb(verbs, "run", run, "run one experiment end to end")
    _add_preset(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print config, partition and resources, and stop"
    )
    text = "write a torch.profiler trace of a few rounds into the run's folder"
    parser.add_argument("--profile", action="store_true", help=text)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _add_resume(verbs: Any) -> None:
    parser = add_verb(verbs, "resume", resume, "go on with an interrupted run")
    text = "a run's id, name or folder, or last; or its copy, as <tracking.storage>/<run id>"
    parser.add_argument("run", metavar="RUN", help=text)
    text = (
        "settings of tracking.*, resources.*, data.root and federation.client_timeout_s; of a run "
    )
    text += "that this root did not begin, data.path and eval.extractor_weights too"
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help=text)
    add_mine(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _add_preset(parser: argparse.ArgumentParser) -> None:
    text = f"a preset ({DEFAULT_PRESET} unless given) and settings such as client.lr=0.001"
    parser.add_argument("words", nargs="*", default=[], metavar="PRESET | key=value", help=text)


def _add_saved_run(parser: argparse.ArgumentParser, settings: str, client: str) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's id, name or folder, or last")
    parser.add_argument(
        "words", nargs="*", default=[], metavar="key=value", help=f"settings of {settings}"
    )
    parser.add_argument("--client", type=_count(0), metavar="ID", help=client)


def _add_adapt(verbs: Any) -> None:
    parser = add_verb(verbs, "adapt", adapt, "fit a client that arrives after a run has ended")
    text = "an id that is free (the next one unless given)"
    _add_saved_run(parser, "adapt.*, tracking.* and data.root", text)
    text = "its images: a data set (its test split), or a folder, flat or with class subfolders"
    parser.add_argument("--data", required=True, metavar="DIR_OR_DATASET", help=text)
    text = "only these classes, by name or number, such as 3,7"
    parser.add_argument("--classes", type=_comma_list, default=[], metavar="LIST", help=text)
    text = "how many images it learns from"
    parser.add_argument("--num-images", type=_count(1), metavar="N", help=text)


def _add_sample(verbs: Any) -> None:
    parser = add_verb(verbs, "sample", sample, "draw images as a client, or as the population")
    text = (
        "whom to draw as (the population unless given); new clients have the ids after the others"
    )
    _add_saved_run(parser, "tracking.*", text)
    parser.add_argument(
        "--num", type=_count(1, MAX_DRAWN), default=64, metavar="N", help="images (64)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument(
        "--guidance", type=_guidance, help="1 turns it off (default: the run's own)"
    )
    parser.add_argument("--out", metavar="PATH", help="the PNG; a .npz is written beside it")


def _add_data(verbs: Any) -> None:
    text = "get a data set, or show who holds which images"
    data = verbs.add_parser("data", help=text, description=f"{text.capitalize()}.")
    data_verbs = data.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    parser = add_verb(data_verbs, "fetch", data_fetch, "get a data set and check its hashes")
    parser.add_argument("name", metavar="NAME", help="mnist, fashion_mnist or cifar10")
    text = "a folder that holds the original files"
    parser.add_argument("--from", dest="source", metavar="DIR", help=text)
    text = "where data sets are kept ($SPIRE_DATA, or data in $SPIRE_ROOT or here, unless given)"
    parser.add_argument("--root", help=text)
    parser = add_verb(data_verbs, "show", data_show, "show which client holds which classes")
    _add_preset(parser)
    parser.add_argument("--out", metavar="PNG", help="draw it as well")


def _add_doctor(verbs: Any) -> None:
    parser = add_verb(verbs, "doctor", doctor, "say what would run where and what is missing")
    text = "check KID and the extractors on the data sets that are here; exit code 1 if that fails"
    parser.add_argument("--metrics", action="store_true", help=text)


def _count(least: int, most: int = 10**9) -> Any:
    def count(text: str) -> int:
        fits = text.isdecimal() and len(text) <= len(str(most))
        if not fits or not least <= int(text) <= most:
            at = f"at least {least}" if not fits or int(text) < least else f"at most {most}"
            raise argparse.ArgumentTypeError(f"expected a number of {at}, got {text!r}")
        return int(text)

    return count


def _guidance(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1000.0:
        raise argparse.ArgumentTypeError(f"expected a number in 0..1000, got {text!r}")
    return value


def _comma_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

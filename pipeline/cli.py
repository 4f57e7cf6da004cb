"""The command `spire`: parses what was typed, lets the package do it, and prints one answer.

Torch, Ray, MLflow and matplotlib are imported inside the verbs, so that `spire --help` answers at
once. Stdout gets the answer alone; progress and messages go to stderr.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.theory_cli import add_theory

if TYPE_CHECKING:
    from pipeline.result import Result
    from pipeline.saved_run import SavedRun

AddVerb = Callable[[Any], None]  # adds a verb to the subparsers of `spire`
DEFAULT_PRESET = "mnist-cpu"
USER_ERROR, INTERRUPTED = 2, 130
MAX_DRAWN = 100_000  # images at once
HALF_LINE = 500  # characters that are kept of each half of a message
GOES_ON = dict.fromkeys(("run", "resume"), ": spire resume goes on from its last round")


@dataclass(frozen=True)
class Answer:
    """What a verb has to say: for people, for programs (`--json`), and to the shell."""

    text: str
    values: dict[str, Any]
    exit_code: int = 0


def main(argv: Sequence[str] | None = None, more_verbs: Sequence[AddVerb] = ()) -> int:
    """Run `spire` with these arguments (None: the process's own) and return its exit code.

    `more_verbs` are those of packages that build on this one. 0 on success, 1 if a self-test or a
    trial failed, 2 for a mistake of the user's, 130 if interrupted.
    """
    args = _parse(argv, more_verbs)
    from pipeline.ray_job import hear_interrupts
    from spire_core.errors import SpireError

    hear_interrupts()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: see `except` below
    try:
        # What libraries print is no part of the answer.
        with contextlib.redirect_stdout(sys.stderr):
            answer: Answer = args.act(args)
    except SpireError as error:
        say(f"spire {args.verb}: {one_line(str(error))}")
        return USER_ERROR
    except (OSError, MemoryError) as error:  # the machine's own: no right, no space, no memory
        told = one_line(str(error)) or "too little memory"
        say(
            f"spire {args.verb}: expected files that can be used and memory enough, got {told}: "
            "free some, or name another place"
        )
        return USER_ERROR
    except KeyboardInterrupt:
        say(f"spire {args.verb}: interrupted{GOES_ON.get(args.verb, '')}")
        return INTERRUPTED
    _print(json.dumps(answer.values, allow_nan=False) if args.json else answer.text)
    return answer.exit_code


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(text: str) -> str:
    """Return a message as one line that no terminal obeys, with the middle of a long one left out.

    It may quote what a stranger has written: control characters are shown as their codes.
    """
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return shown if len(shown) <= 2 * HALF_LINE else f"{shown[:HALF_LINE]}...{shown[-HALF_LINE:]}"


def say(text: str) -> None:
    """Print a message to stderr."""
    print(text, file=sys.stderr, flush=True)


# --- the verbs ----------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> Answer:
    """Run one experiment, or with `--dry-run` say what it would be."""
    from pipeline.config import load_config
    from spire_core.errors import ConfigError

    preset, overrides = _preset_and_overrides(args.words)
    config = load_config(preset, [*overrides, *(["tracking.profile=true"] * args.profile)])
    if args.profile and not config.method.record.is_federated:
        raise ConfigError(
            f"expected a method with rounds to profile, got {config.method.name}: leave out "
            "--profile"
        )
    _fetch_if_missing(config.data.name, config.data.root, config.data.path)
    from pipeline import report_text
    from pipeline.experiment import run_experiment
    from pipeline.progress import Progress, Watcher
    from pipeline.setting import prepare

    if args.dry_run:
        from pipeline.doctor import plan_here

        plan, setting = plan_here(config), prepare(config)
        told = report_text.setting_json(setting, preset, plan)
        return Answer(report_text.setting_text(told, plan), told)
    with contextlib.closing(Watcher() if args.quiet else Progress()) as watcher:
        return _finished(run_experiment(config, preset, watcher), preset)


def resume(args: argparse.Namespace) -> Answer:
    """Go on with an interrupted run; of a finished one, say again what it found."""
    from pipeline.config import load_config
    from pipeline.run_files import load_result
    from pipeline.runs import find_run
    from pipeline.start_file import load_start

    changeable = ("tracking.", "resources.", "federation.client_timeout_s=", "data.root=")
    overrides = allowed(args.words, changeable)
    given = load_config(None, overrides).tracking
    if "://" in args.run:
        from pipeline.storage import restore

        run_dir = restore(args.run, given, say)
    else:
        run_dir = find_run(args.run, given)
    if (told := load_result(run_dir)) is not None:
        return Answer(f"run {told['run_id']} has finished: spire sample {told['run_id']}", told)
    from pipeline.experiment import resume_experiment
    from pipeline.progress import Progress, Watcher

    config, preset = load_start(run_dir, given.uri, overrides)
    _fetch_if_missing(config.data.name, config.data.root, config.data.path)
    with contextlib.closing(Watcher() if args.quiet else Progress()) as watcher:
        return _finished(resume_experiment(run_dir, config, watcher), preset)


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
    from pipeline.known_datasets import SPECS
    from pipeline.report_text import arrival_json, arrival_table

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

    from pipeline.image_grids import image_grid
    from pipeline.report_text import writable_png

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

    preset, overrides = _preset_and_overrides(args.words)
    config = load_config(preset, overrides)
    _fetch_if_missing(config.data.name, config.data.root, config.data.path)
    from pipeline import report_text
    from pipeline.figures import partition_figure
    from pipeline.setting import partitioned

    data, partition = partitioned(config)
    labels, names = data.labels, data.class_names
    told = report_text.partition_json(partition, labels, names)
    text = report_text.partition_text(told)
    if args.out:
        shown = partition.shown
        counts = shown.class_counts(labels, len(names))
        path = report_text.writable_png(args.out)
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


def _finished(result: "Result", preset: str | None) -> Answer:
    from pipeline import report_text
    from pipeline.disk import room_for
    from pipeline.run_files import save_result

    with room_for(result.run_dir):
        report_text.save_grid(result)
        told = report_text.result_json(result, preset)
        save_result(result.run_dir, told)
    return Answer(report_text.result_table(result), told)


def _preset_and_overrides(words: Sequence[str]) -> tuple[str, list[str]]:
    from spire_core.errors import ConfigError

    presets = [word for word in words if "=" not in word]
    if len(presets) > 1:
        raise ConfigError(
            f"expected one preset and key=value overrides, got {' and '.join(presets)}: "
            "write a setting as key=value, such as client.lr=0.001"
        )
    return presets[0] if presets else DEFAULT_PRESET, [word for word in words if "=" in word]


def _fetch_if_missing(name: str, root: str | None, source_dir: str | None) -> None:
    from pipeline.fetch import fetch_if_missing

    fetch_if_missing(name, root, source_dir, say)


def _saved_run(run: str, overrides: Sequence[str], prefixes: tuple[str, ...]) -> "SavedRun":
    """Return a finished run; ConfigError for an override of what that run has already fixed."""
    from pipeline.config import load_config
    from pipeline.runs import find_run
    from pipeline.saved_run import SavedRun

    overrides = allowed(overrides, prefixes)
    return SavedRun.load(find_run(run, load_config(None, overrides).tracking))


def allowed(overrides: Sequence[str], prefixes: tuple[str, ...]) -> Sequence[str]:
    """Return the overrides; ConfigError for one that begins with none of the prefixes."""
    from spire_core.errors import ConfigError

    for word in overrides:
        if not word.startswith(prefixes):
            raise ConfigError(
                f"expected settings of {', '.join(a.rstrip('.=') for a in prefixes)} only, got "
                f"{word!r}: everything else was fixed by the run"
            )
    return overrides


# --- what can be typed --------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {one_line(message)}: see {self.prog} --help\n")


def _parse(argv: Sequence[str] | None, more_verbs: Sequence[AddVerb]) -> argparse.Namespace:
    """Return the parsed arguments; unlike argparse alone, words may also come after options."""
    from pipeline.sync import add_sync

    parser = _Parser(prog="spire", description="Federated personalised diffusion models.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    own = (_add_run, _add_resume, _add_adapt, _add_sample, _add_data)
    for add in (*own, add_theory, _add_doctor, add_sync, *more_verbs):
        add(verbs)
    args, rest = parser.parse_known_args(argv)
    if [word for word in rest if word.startswith("-") or "words" not in args]:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.words = [*args.words, *rest]
    return args


def add_verb(verbs: Any, name: str, act: Any, text: str) -> argparse.ArgumentParser:
    """Return the parser of a new verb that answers with `act(args)`, as text or as JSON."""
    parser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(act=act)
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    return parser


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
    text = "settings of tracking.*, resources.*, data.root and federation.client_timeout_s"
    parser.add_argument("words", nargs="*", metavar="key=value", help=text)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _add_preset(parser: argparse.ArgumentParser) -> None:
    text = f"a preset ({DEFAULT_PRESET} unless given) and settings such as client.lr=0.001"
    parser.add_argument("words", nargs="*", metavar="PRESET | key=value", help=text)


def _add_saved_run(parser: argparse.ArgumentParser, settings: str) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's id, name or folder, or last")
    parser.add_argument("words", nargs="*", metavar="key=value", help=f"settings of {settings}")
    parser.add_argument("--client", type=_count(0), metavar="ID", help="the client's id")


def _add_adapt(verbs: Any) -> None:
    parser = add_verb(verbs, "adapt", adapt, "fit a client that arrives after a run has ended")
    _add_saved_run(parser, "adapt.*, tracking.* and data.root")
    text = "its images: a data set (its test split), or a folder, flat or with class subfolders"
    parser.add_argument("--data", required=True, metavar="DIR_OR_DATASET", help=text)
    text = "only these classes, by name or number, such as 3,7"
    parser.add_argument("--classes", type=_comma_list, default=[], metavar="LIST", help=text)
    text = "how many images it learns from"
    parser.add_argument("--num-images", type=_count(1), metavar="N", help=text)


def _add_sample(verbs: Any) -> None:
    parser = add_verb(verbs, "sample", sample, "draw images as a client, or as the population")
    _add_saved_run(parser, "tracking.*")
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
    parser.add_argument("--root", help="where data sets are kept ($SPIRE_DATA, or ./data)")
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

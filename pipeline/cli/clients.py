"""The verbs `spire adapt` and `spire sample`: clients of a finished run."""

import argparse
import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.cli.command import Answer, add_verb, say
from pipeline.cli.outputs import writable_png
from pipeline.cli.presets import fetch_if_missing
from pipeline.cli.words import allowed
from spire_core.config.eval import MAX_DRAWN, MAX_GUIDANCE

if TYPE_CHECKING:
    from pipeline.inference.saved_run import SavedRun


OF_A_FIT = ("adapt.", "privacy.adapt.", "privacy.noise_key=")
NUM_IMAGES, NUM_PER_PROMPT, MAX_COLUMNS = 64, 8, 32


def adapt(args: argparse.Namespace) -> Answer:
    """Fit the own part of a client that arrives after a run has ended."""
    limit = [] if args.num_images is None else [f"adapt.num_images={args.num_images}"]
    budget = [] if args.epsilon is None else [f"privacy.adapt.epsilon={args.epsilon}"]
    overrides = [*args.words, *limit, *budget]
    saved = saved_run(args.run, overrides, (*OF_A_FIT, "tracking.", "data.root="))
    from pipeline.inference.joining import data_root, joining_config

    config = joining_config(saved, overrides)
    root = data_root(saved, config)
    from pipeline.cli.arrival_text import arrival_json, arrival_table
    from pipeline.data.catalog import SPECS
    from pipeline.inference.arrival import adapt_arrival, check_arrival
    from pipeline.inference.arrival_images import captions_file, load_arrival

    if args.data in SPECS:
        fetch_if_missing(args.data, root, None)
    arriving = load_arrival(saved, args.data, args.classes, root)
    is_private, steps = config.privacy.adapt.is_on, config.privacy.adapt.steps
    length = f"{steps} private steps" if is_private else f"up to {config.adapt.epochs} epochs"
    check_arrival(saved, arriving, config, args.client)  # before a message that promises a fit
    if saved.has_text and arriving.captions is None:
        say(
            f"{args.data} has no captions, so the client learns from images alone: list them in "
            f"{captions_file(saved)} there, with the columns path and caption"
        )
        _warn_of_null_text(saved)
    say(f"fitting a new client for {length}")
    arrival = adapt_arrival(saved, arriving, config.adapt, args.client, config.privacy)
    return Answer(arrival_table(arrival), arrival_json(arrival))


def sample(args: argparse.Namespace) -> Answer:
    """Draw images as a client of a finished run, or as its population."""
    saved = saved_run(args.run, args.words, ("tracking.",))
    import numpy as np
    from PIL import Image

    from pipeline.figures.image_grids import image_grid
    from pipeline.inference.saved_run import Drawing
    from pipeline.runs.layout import SAMPLES

    saved.client_state(args.client)  # raises before a folder is made, as do the prompts
    for prompt in args.prompt:
        saved.prompt_tokens(prompt)
    first = next(iter(args.prompt), None)
    asked = Drawing(args.client, 1, first, args.guidance, args.text_guidance)
    guidance, text_guidance = saved.scales(asked)
    if not args.prompt:
        _warn_of_null_text(saved)
    who = "population" if args.client is None else f"client_{args.client}"
    png = writable_png(args.out or saved.folder.parent / SAMPLES / f"{who}_seed{args.seed}.png")
    num = args.num or (NUM_PER_PROMPT if args.prompt else NUM_IMAGES)
    images = np.concatenate(
        [
            saved.draw(args.client, num, args.seed, guidance, prompt, text_guidance)
            for prompt in args.prompt or (None,)
        ]
    )
    npz = png.with_suffix(".npz")
    np.savez_compressed(npz, images=images)
    Image.fromarray(image_grid(images, num if args.prompt and num <= MAX_COLUMNS else 8)).save(png)
    values = {"client_id": args.client, "num_images": len(images), "seed": args.seed}
    values |= {"guidance": guidance, "artifacts": {"png": str(png), "npz": str(npz)}}
    if args.prompt:
        values |= {"prompts": args.prompt, "text_guidance": text_guidance}
    rows = f", a row for each of {len(args.prompt)} prompts" if len(args.prompt) > 1 else ""
    return Answer(f"{len(images)} images{rows}: {png} and {npz}", values)


def _warn_of_null_text(saved: "SavedRun") -> None:
    """Say it if what is shown and drawn without captions is of a null text that never trained."""
    if saved.has_text and not saved.config.has_null_text:
        say(
            "this run has shown no image without its caption (client.text_dropout), so that what "
            "it does without one is untrained"
        )


def saved_run(run: str, overrides: Sequence[str], prefixes: tuple[str, ...]) -> "SavedRun":
    """Return a finished run; ConfigError for an override of a setting that the run has fixed."""
    from pipeline.inference.saved_run import open_run

    return open_run(run, allowed(overrides, prefixes))


def add_saved_run(parser: argparse.ArgumentParser, settings: str, client: str) -> None:
    """Add the arguments of a verb about a finished run and one of its clients."""
    parser.add_argument("run", metavar="RUN", help="a run's id, name or folder, or last")
    parser.add_argument(
        "words", nargs="*", default=[], metavar="key=value", help=f"settings of {settings}"
    )
    parser.add_argument("--client", type=_count(0), metavar="ID", help=client)


def add_adapt(verbs: Any) -> None:
    """Add the verb `adapt`."""
    parser = add_verb(verbs, "adapt", adapt, "fit a client that arrives after a run has ended")
    text = "an id that is free (the next one unless given)"
    add_saved_run(
        parser, "adapt.*, privacy.adapt.*, privacy.noise_key, tracking.* and data.root", text
    )
    text = "its images: a data set (its test split), or a folder, flat or with class subfolders"
    parser.add_argument("--data", required=True, metavar="DIR_OR_DATASET", help=text)
    text = "only these classes, by name or number, such as 3,7"
    parser.add_argument("--classes", type=_comma_list, default=[], metavar="LIST", help=text)
    text = "how many images it learns from"
    parser.add_argument("--num-images", type=_count(1), metavar="N", help=text)
    text = "privacy budget of its images, such as 4 (docs/privacy.md); none unless given"
    parser.add_argument("--epsilon", type=_budget, metavar="E", help=text)


def add_sample(verbs: Any) -> None:
    """Add the verb `sample`."""
    parser = add_verb(verbs, "sample", sample, "draw images as a client, or as the population")
    text = (
        "whom to draw as (the population unless given); new clients have the ids after the others"
    )
    add_saved_run(parser, "tracking.*", text)
    text = f"images ({NUM_IMAGES}), or images of each prompt ({NUM_PER_PROMPT})"
    parser.add_argument("--num", type=_count(1, MAX_DRAWN), metavar="N", help=text)
    text = "what the images show, in words that the run knows; each --prompt is a row of the sheet"
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help=text)
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    text = "with --client: how strongly images are pulled towards that client, away from the "
    text += "population; 1 turns it off (default: the client's own choice, or the run's)"
    parser.add_argument("--guidance", type=_guidance, help=text)
    text = "with --prompt: how strongly it counts; 1 turns it off (default: the run's own)"
    parser.add_argument("--text-guidance", type=_guidance, help=text)
    parser.add_argument("--out", metavar="PATH", help="the PNG; a .npz is written beside it")


def _count(minimum: int, maximum: int = 10**9) -> Any:
    def count(text: str) -> int:
        is_long = text.isdecimal() and len(text) > len(str(maximum))
        if is_long or not text.isdecimal() or not minimum <= int(text) <= maximum:
            is_large = is_long or (text.isdecimal() and int(text) > maximum)
            limit = f"at most {maximum}" if is_large else f"at least {minimum}"
            raise argparse.ArgumentTypeError(f"expected a number of {limit}, got {text!r}")
        return int(text)

    return count


def _guidance(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 <= (value := float(text)) <= MAX_GUIDANCE:
            return value
    raise argparse.ArgumentTypeError(f"expected a number in 0..1000, got {text!r}")


def _budget(text: str) -> str:
    """Return a number as it was typed: nothing, or null, would fit without noise."""
    with contextlib.suppress(ValueError):
        if math.isfinite(float(text)):
            return text
    raise argparse.ArgumentTypeError(f"expected a number such as 4, got {text!r}")


def _comma_list(text: str) -> list[str]:
    if parts := [part.strip() for part in text.split(",") if part.strip()]:
        return parts
    raise argparse.ArgumentTypeError(f"expected names or numbers with commas, got {text!r}")

"""The verb `spire export`: a finished run's client as a pipeline of diffusers."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli.clients import add_saved_run, saved_run
from pipeline.cli.command import Answer, add_verb
from pipeline.files.paths import lasting


def export(args: argparse.Namespace) -> Answer:
    """Write a client of a finished run as a folder that diffusers loads."""
    folder = Path(lasting(args.diffusers, "--diffusers"))
    run = saved_run(args.run, args.words, ("tracking.",))
    from pipeline.inference.pipeline_folder import write_pipeline

    write_pipeline(run, args.client, folder)
    who = "the population" if args.client is None else f"client {args.client}"
    values = {"client_id": args.client, "artifacts": {"diffusers": str(folder)}}
    return Answer(f"{who} as a pipeline of diffusers: {folder}", values)


def add_export(verbs: Any) -> None:
    """Add the verb `export`."""
    parser = add_verb(verbs, "export", export, "write a client as a pipeline of diffusers")
    text = "which client (the population unless given)"
    add_saved_run(parser, "tracking.*", text)
    text = "a new folder (docs/retrofit.md says how it is used)"
    parser.add_argument("--diffusers", required=True, metavar="FOLDER", help=text)

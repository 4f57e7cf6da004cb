"""The verbs `spire data fetch` and `spire data show`."""

import argparse
from typing import Any

from pipeline.cli.command import Answer, add_verb, say
from pipeline.cli.outputs import writable_png
from pipeline.cli.presets import add_preset, check_source, fetch_if_missing, preset_and_settings


def data_fetch(args: argparse.Namespace) -> Answer:
    """Fetch a data set, unless an intact copy is stored."""
    from pipeline.data.fetch import fetch

    path = fetch(args.name, args.root, args.source, log=say)
    return Answer(str(path), {"name": args.name, "path": str(path)})


def data_show(args: argparse.Namespace) -> Answer:
    """Show, and draw with `--out`, how many images of each class each client holds.

    Clients that exist are shown with their names and captions, and captions with the vocabulary
    that they need.
    """
    from pipeline.config.meaning import load_typed

    preset, overrides = preset_and_settings(args.words)
    config = load_typed(preset, overrides)
    check_source(config.data.name, config.data.path)
    fetch_if_missing(config.data.name, config.data.root, config.data.path)
    from pipeline.cli.setup_text import partition_json, partition_text, vocabulary_text
    from pipeline.federation.partitioning import partitioned
    from pipeline.figures.plots import partition_figure
    from spire_core.network.words import words_in

    data, partition = partitioned(config)
    labels, names = data.labels, data.class_names
    values = partition_json(partition, data)
    text = partition_text(values)
    if data.captions and config.model.text == "none":
        values["words"] = words_in(data.captions)
        text += f"\n{vocabulary_text(values['words'])}"
    if args.out:
        shown = partition.shown
        counts = shown.class_counts(labels, len(names))
        path = writable_png(args.out)
        figure = partition_figure(counts, names, len(shown.train_clients), shown.client_ids)
        figure.savefig(path)
        values["artifacts"] = {"png": str(path)}
        text += f"\ndrawn in {path}"
    return Answer(text, values)


def add_data(verbs: Any) -> None:
    """Add the verbs `data fetch` and `data show`."""
    text = "get a data set, or show who holds which images"
    data = verbs.add_parser("data", help=text, description=f"{text.capitalize()}.")
    data_verbs = data.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    parser = add_verb(data_verbs, "fetch", data_fetch, "get a data set and check its hashes")
    parser.add_argument("name", metavar="NAME", help="mnist, fashion_mnist, cifar10 or fonts")
    text = "a folder that holds the original files"
    parser.add_argument("--from", dest="source", metavar="DIR", help=text)
    text = "where data sets are kept ($SPIRE_DATA, or data in $SPIRE_ROOT or here, unless given)"
    parser.add_argument("--root", help=text)
    parser = add_verb(data_verbs, "show", data_show, "show which client holds which classes")
    add_preset(parser)
    parser.add_argument("--out", metavar="PNG", help="draw it as well")

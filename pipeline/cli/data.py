"""The verbs `spire data fetch` and `spire data show`."""

from click import Group, argument, option
from click import Path as File

from pipeline.cli.command import Answer, png_path, say, verb
from pipeline.cli.run import PRESETS, with_preset
from pipeline.cli.words import Words, preset_and_settings
from pipeline.config.meaning import load_typed


@verb()
@argument("name")
@option("--from", "source", metavar="DIR", help="A folder that holds the original files.")
@option("--root", metavar="DIR", help="Where data sets are kept (else $SPIRE_DATA, or data here).")
def fetch(name: str, source: str | None, root: str | None) -> Answer:
    """Get a data set (mnist, fashion_mnist, cifar10 or fonts) and check its hashes."""
    from pipeline.data.fetch import fetch

    path = fetch(name, root, source, log=say)
    return Answer(str(path), {"name": name, "path": str(path)})


@verb(epilog=PRESETS)
@with_preset
@option("--out", type=File(dir_okay=False), metavar="PNG", help="Draw it as well.")
def show(words: Words, out: str | None) -> Answer:
    """Show how many images of each class each client holds.

    Clients that exist are shown with their names and captions, and captions with the vocabulary
    that they need.
    """
    from pipeline.cli.setup_text import partition_json, partition_text, vocabulary_text
    from pipeline.data.fetch import check_source, fetch_if_missing
    from pipeline.federation.partitioning import partitioned
    from spire_core.network.words import words_in

    config = load_typed(*preset_and_settings(words))
    check_source(config.data.name, config.data.path)
    fetch_if_missing(config.data.name, config.data.root, config.data.path, say)
    data, partition = partitioned(config)
    values = partition_json(partition, data)
    text = partition_text(values)
    if data.captions and config.model.text == "none":
        values["words"] = words_in(data.captions)
        text += f"\n{vocabulary_text(values['words'])}"
    if out:
        from pipeline.figures.plots import partition_figure

        path, shown, names = png_path(out), partition.shown, data.class_names
        counts = shown.class_counts(data.labels, len(names))
        figure = partition_figure(counts, names, len(shown.train_clients), shown.client_ids)
        figure.savefig(path)
        values["artifacts"] = {"png": str(path)}
        text += f"\ndrawn in {path}"
    return Answer(text, values)


text = "Get a data set, or show who holds which images."
data = Group("data", [fetch, show], help=text, subcommand_metavar="VERB ...", no_args_is_help=False)

"""The verb `spire audit`: what a finished run's messages and adapted models give away."""

from typing import TYPE_CHECKING

from click import IntRange, option

from pipeline.cli.clients import of_run, with_settings
from pipeline.cli.command import Answer, say, verb
from pipeline.cli.sync import sync_runs
from pipeline.cli.tables import pairs, table
from pipeline.cli.words import Words, allowed
from pipeline.config.load import flattened, load_config, overridden
from pipeline.config.meaning import say_without_effect, without_effect
from pipeline.runs.record import find_run, load_result, load_start, run_lock
from spire_core.errors import RunError

if TYPE_CHECKING:
    from pipeline.audit.audit import Audit

PLACES = ("tracking.", "data.root=", "eval.extractor_weights=")
WHAT_IF = ("client.opt_state=", "client.private_moments=", "client.compression=")
WHAT_IF += ("client.emb_dropout=", "federation.cohort_size=", "federation.tau=")
WHAT_IF += ("federation.secure_aggregation=",)


@verb()
@of_run
@with_settings
@option("--rounds", type=IntRange(1, 1000), default=4, help="Rounds to simulate (4).")
def audit(run: str, words: Words, rounds: int) -> Answer:
    """Measure what a finished run gives away.

    RUN is a run's id, name or folder, or last. Settings are those of tracking.*, data.root and
    eval.extractor_weights; of rounds, such as client.opt_state, to see what they would change.
    """
    from pipeline.audit.audit import audit_run, record_audit
    from pipeline.data.fetch import fetch_if_missing

    typed = allowed(words, (*PLACES, *WHAT_IF))
    places = [word for word in typed if word.startswith(PLACES)]
    changes = [word for word in typed if not word.startswith(PLACES)]
    given = load_config(None, places).tracking
    run_dir = find_run(run, given, is_finished=True)
    if load_result(run_dir) is None:
        raise RunError(f"expected a finished run, got {run}: spire resume {run} first")
    began, _ = load_start(run_dir, given, places)
    fetch_if_missing(began.data.name, began.data.root, began.data.path, say)
    with run_lock(run_dir):
        changed = overridden(began, changes)
        say_without_effect(without_effect(changed, changes))
        outcome = audit_run(run_dir, began, changed, changes, rounds, say)
        path = record_audit(run_dir, outcome)
    if began.tracking.enabled and not changes:
        for synced in sync_runs(given, [run_dir]):
            say(synced.text)
    values = outcome.as_dict() | {"artifacts": {"audit": str(path)}}
    return Answer(f"{audit_text(outcome)}\n\naudit  {path}", values)


def audit_text(outcome: "Audit") -> str:
    """Return an audit as a table of clients, and its other numbers by name (docs/privacy.md)."""
    values, text = flattened(outcome.as_dict() | {"metrics": []}), "no embeddings are in messages"
    if outcome.messages is not None:
        rows = [{"client": one.client_id, **one.cos} for one in outcome.messages.clients]
        title = "|cos| of each client's embedding and the direction that the server computes"
        text = f"{title}\n{table(rows, {name: name for name in rows[0]})}"
    numbers = pairs({name: one for name, one in values.items() if not isinstance(one, list)})
    return "\n\n".join([*outcome.overrides, text, numbers])

"""The verb `spire audit`: what a finished run's messages and adapted models give away."""

import argparse
from typing import TYPE_CHECKING, Any

from pipeline.cli.command import Answer, add_verb, say
from pipeline.cli.presets import fetch_if_missing
from pipeline.cli.sync import sync_runs
from pipeline.cli.words import allowed

if TYPE_CHECKING:
    from pipeline.audit.audit import Audit

NUM_ROUNDS = 4
PLACES = ("tracking.", "data.root=", "eval.extractor_weights=")
WHAT_IF = ("client.opt_state=", "client.private_moments=", "client.compression=")
WHAT_IF += ("client.emb_dropout=", "federation.cohort_size=", "federation.tau=")
WHAT_IF += ("federation.secure_aggregation=",)


def audit(args: argparse.Namespace) -> Answer:
    """Audit a finished run; with settings of rounds, what it would give away under these."""
    from pipeline.config.load import load_config, overridden
    from pipeline.config.meaning import say_without_effect, without_effect
    from pipeline.runs.record import find_run, load_result, load_start, run_lock
    from spire_core.errors import RunError

    words = allowed(args.words, (*PLACES, *WHAT_IF))
    places = [word for word in words if word.startswith(PLACES)]
    changes = [word for word in words if not word.startswith(PLACES)]
    given = load_config(None, places).tracking
    run_dir = find_run(args.run, given, is_finished=True)
    if load_result(run_dir) is None:
        raise RunError(f"expected a finished run, got {args.run}: spire resume {args.run} first")
    began, _ = load_start(run_dir, given, places)
    fetch_if_missing(began.data.name, began.data.root, began.data.path)
    from pipeline.audit.audit import audit_run, record_audit

    with run_lock(run_dir):
        changed = overridden(began, changes)
        say_without_effect(without_effect(changed, changes))
        outcome = audit_run(run_dir, began, changed, changes, args.rounds, say)
        path = record_audit(run_dir, outcome)
    if began.tracking.enabled and not changes:
        for synced in sync_runs(given, [run_dir]):
            say(synced.text)
    values = outcome.as_dict() | {"artifacts": {"audit": str(path)}}
    return Answer(f"{audit_text(outcome)}\n\naudit  {path}", values)


def audit_text(outcome: "Audit") -> str:
    """Return an audit as tables, each with a sentence that says how to read it."""
    parts = [f"{outcome.method}, run {outcome.run_id}", *outcome.overrides]
    return "\n\n".join([", ".join(parts), _messages_text(outcome), _models_text(outcome)])


def _messages_text(outcome: "Audit") -> str:
    from pipeline.audit.messages import ATTACKS
    from pipeline.cli.tables import aligned, number

    leak = outcome.messages
    if leak is None:
        return "Messages: no round of this run sends what a client's own embedding has changed"
    rows = [
        [str(client.client_id), *(number(client.cos[name]) for name in ATTACKS)]
        for client in leak.clients
    ]
    return (
        "Messages: |cos| of each client's embedding and the direction that the server computes\n"
        f"{aligned(['client', *ATTACKS], rows)}\n"
        f"best: {leak.best}, median {number(leak.cos)} (largest between two clients "
        f"{number(leak.chance)}); {100 * leak.identified:.0f} % of the clients identified\n"
        f"sum over {leak.cohort_size} clients: its span has {number(leak.span_members)} of an "
        f"embedding's length, and {number(leak.span_others)} for clients outside"
    )


def _models_text(outcome: "Audit") -> str:
    from pipeline.cli.tables import number

    leak = outcome.models
    if leak is None:
        return "Adapted models: new clients of this method train nothing"
    found = leak.attack
    return (
        f"Adapted models: {leak.num_members} training images of {len(leak.client_ids)} clients "
        f"against {leak.num_others} held-out ones, by their loss before and after\n"
        f"AUC {number(found.auc)} (95 %: {number(found.auc_low)} to {number(found.auc_high)})\n"
        f"TPR at 1 % FPR {number(found.tpr)} ({number(found.tpr_low)} to {number(found.tpr_high)})"
    )


def add_audit(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "audit", audit, "measure what a finished run gives away")
    parser.add_argument("run", metavar="RUN", help="a run's id, name or folder, or last")
    text = "settings of tracking.* and data.root; of a run that this root did not begin, also "
    text += "data.path, eval.extractor_weights, model.backbone and model.text_encoder; of rounds, "
    text += "such as client.opt_state, to see what they would change"
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help=text)
    text = f"rounds to simulate from the finished state ({NUM_ROUNDS})"
    parser.add_argument("--rounds", type=_rounds, default=NUM_ROUNDS, metavar="N", help=text)


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number of rounds in 1..1000, got {text!r}")
    return int(text)

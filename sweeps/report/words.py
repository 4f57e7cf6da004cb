"""The words that a reader of a report's first screen needs: its methods and its score, explained.

A method is explained by its record, so that one of another package has its sentence too.
"""

from collections.abc import Sequence

from spire_core.config.method import find_method
from spire_core.methods import BODY, CLIENT_EMB, LOCAL, Method
from sweeps.report.groups import Group

KID = (
    "distance between what is drawn for a client and its own images that nobody trained on; lower "
    "is better, and near 0 the two cannot be told apart"
)


def words_of(groups: Sequence[Group]) -> dict[str, str]:
    """Return each word with its meaning: the methods in their order, and KID if a group has it.

    A method whose package is not installed here is left out.
    """
    names = dict.fromkeys(group.method for group in groups)
    found = {name: in_words(method) for name in names if (method := find_method(name))}
    has_kid = any("_kid" in key for g in groups for run in g.runs for key in run.finals)
    return found | ({"KID": KID} if has_kid else {})


def in_words(method: Method) -> str:
    """Return what clients of a method share and keep, and what a new one trains."""
    parts = {
        CLIENT_EMB: "its embedding",
        LOCAL: "its adapter" if method.adapter else "its own layers",
        BODY: "the whole model",
    }
    trained = " and ".join(parts[part] for part in method.adapt_parts if part in parts)
    alone = " from scratch" if not method.is_federated else ""
    return f"{_shared(method)}; a new client trains {trained or 'nothing'}{alone}"


def _shared(method: Method) -> str:
    if not method.is_federated:
        return "each client is on its own"
    own = ["an embedding"] * method.has_embedding + ["some layers"] * method.has_local_layers
    kept = f", and each client keeps {' and '.join(own)}" if own else ""
    if method.is_frozen:
        return f"a pre-trained model stays as it is{kept}"
    term = ", with a term of its own in the loss" if method.penalty is not None else ""
    return f"the server averages one model{kept}{term}"

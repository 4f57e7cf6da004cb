"""The numbers of an audit: metrics, tables, and plain values."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.audit.embedding_attacks import ATTACKS, MessageLeak
from pipeline.audit.membership import NEAREST, REFERENCE, SECMI, ModelLeak
from spire_core.privacy.membership import AttackResult

AUC_COLUMNS = {REFERENCE: "mia_auc", SECMI: "secmi_auc", NEAREST: "nearest_auc"}


@dataclass(frozen=True)
class Audit:
    """What a run gives away: by its messages, and by its adapted models.

    `messages` is None for a method without embeddings or rounds, `models` for one whose new clients
    train nothing. `overrides`: settings other than the run's own.
    """

    run_id: str
    method: str
    messages: MessageLeak | None
    models: ModelLeak | None
    overrides: tuple[str, ...] = ()

    def metrics(self) -> dict[str, float]:
        """Return the tracked numbers by name.

        Of the membership attacks this is the reference attack, so that methods are compared by the
        same one.
        """
        found: dict[str, float] = {}
        if self.messages is not None:
            leak = self.messages
            found |= {"privacy/emb_cos": leak.cos, "privacy/emb_cos_chance": leak.chance}
            found |= {"privacy/emb_identified": leak.identified}
            found |= {"privacy/emb_span": leak.span_members}
            found |= {"privacy/emb_span_others": leak.span_others}
        if self.models is not None:
            attack = self.models.attacks[REFERENCE]
            found |= {"privacy/mia_auc": attack.auc, "privacy/mia_tpr": attack.tpr}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def message_table(self) -> dict[str, list[Any]]:
        """Return one row per message: the client and |cos| by attack."""
        assert self.messages is not None
        clients = self.messages.clients
        columns: dict[str, list[Any]] = {"client_id": [c.client_id for c in clients]}
        return columns | {f"cos_{name}": [c.cos[name] for c in clients] for name in ATTACKS}

    def model_table(self) -> dict[str, list[Any]]:
        """Return one row per attack on adapted models."""
        assert self.models is not None
        attacks = self.models.attacks
        names = [field.name for field in fields(AttackResult) if field.name != "client_aucs"]
        numbers = {name: [getattr(one, name) for one in attacks.values()] for name in names}
        return {"attack": list(attacks)} | numbers

    def client_table(self) -> dict[str, list[Any]]:
        """Return one row per attacked client: the AUC of each attack on its adapted model."""
        assert self.models is not None
        columns: dict[str, list[Any]] = {"client_id": list(self.models.client_ids)}
        attacks = {name: list(one.client_aucs) for name, one in self.models.attacks.items()}
        return columns | {column: attacks[name] for name, column in AUC_COLUMNS.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values; a number that is not finite becomes None."""
        values = asdict(self) | {"metrics": self.metrics()}
        values["overrides"] = list(self.overrides)
        return _plain(values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Makes one client of a `spire` command fail on purpose; Python imports this file as it starts.

It belongs to `chaos.py`, is found where PYTHONPATH names its folder (Ray's processes inherit that),
and does nothing without SPIRE_FAULT, a JSON object:
    kind       "raise": the client's training raises; "nan": its update and its own state are NaN
    client_id, round_idx
    mark       a file that says that it has happened, which it does once
"""

import json
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

FAULT = json.loads(os.environ.get("SPIRE_FAULT", "null"))


def happens(client_id: int, round_idx: int) -> bool:
    """Return whether the fault is due, and note that it has now happened."""
    if (client_id, round_idx) != (FAULT["client_id"], FAULT["round_idx"]):
        return False
    try:
        Path(FAULT["mark"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def spoil_training(rounds: ModuleType) -> None:
    train_client = rounds.train_client

    def spoilt(*args: Any) -> Any:
        client, plan = args[2], args[-1]
        if not happens(client.client_id, plan.round_idx):
            return train_client(*args)
        if FAULT["kind"] == "raise":
            raise OSError("a fault that was asked for")
        update, state = train_client(*args)
        object.__setattr__(update, "weights", update.weights * float("nan"))
        nan = {name: tensor * float("nan") for name, tensor in state.to_tensors().items()}
        return update, type(state).from_tensors(nan)

    rounds.train_client = spoilt  # type: ignore[attr-defined]


class Patching:
    """Finds one module as Python would, and changes it as soon as it has been executed."""

    def __init__(self, name: str, patch: Callable[[ModuleType], None]) -> None:
        self.name, self.patch = name, patch

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == self.name else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            self.patch(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


if FAULT is not None:
    sys.meta_path.insert(0, Patching("pipeline.clients.rounds", spoil_training))  # type: ignore[arg-type]

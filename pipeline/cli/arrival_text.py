"""The answer of `spire adapt`: an arrived client as text and JSON."""

from typing import Any

from pipeline.cli.result_text import diagnoses_text
from pipeline.cli.tables import aligned, number
from pipeline.inference.arrival import Arrival
from pipeline.results.files import finite_values
from spire_core.adaptation.adapt import AdaptPoint


def arrival_json(arrival: Arrival) -> dict[str, Any]:
    """Return the result of an arrived client's adaptation as plain values."""
    curve = [
        {
            "epoch": point.epoch,
            "train_loss": point.train_loss,
            "val_loss": point.val_loss,
            **finite_values(point.observed or {}),
        }
        for point in arrival.curve
    ]
    guarantee = arrival.guarantee
    return {
        "client_id": arrival.client_id,
        "num_train": arrival.num_train,
        "num_test": arrival.num_test,
        "num_trained": arrival.num_trained,
        "kept_epoch": arrival.kept_epoch,
        **({} if arrival.guidance is None else {"guidance": arrival.guidance}),
        "curve": curve,
        "diagnoses": [] if arrival.diagnosis is None else [arrival.diagnosis.as_dict()],
        **({} if guarantee is None else {"privacy": guarantee.as_values()}),
        "artifacts": {"client": str(arrival.path), "samples": str(arrival.grid_path)},
    }


def arrival_table(arrival: Arrival) -> str:
    """Return an arrived client's curve over epochs and the files of its result."""
    header = ["epoch", "train loss", "held-out loss", "KID", "TV"]
    rows = [_arrival_row(point) for point in arrival.curve if point.observed is not None]
    chosen = "" if arrival.guidance is None else f", guidance {arrival.guidance:g}"
    promise = "" if arrival.guarantee is None else f"{arrival.guarantee.sentence}\n"
    return (
        f"client {arrival.client_id}: {arrival.num_trained:,} numbers trained on "
        f"{arrival.num_train} images, measured on {arrival.num_test} others\n"
        f"{aligned(header, rows)}\n"
        f"kept epoch {arrival.kept_epoch}{chosen}\n{promise}\n"
        f"{diagnoses_text([arrival.diagnosis] if arrival.diagnosis else [])}\n\n"
        f"own part  {arrival.path}\nsamples   {arrival.grid_path}"
    )


def _arrival_row(point: AdaptPoint) -> list[str]:
    observed = point.observed or {}
    keys = ("heldout_loss", "own_kid", "tv")
    return [
        str(point.epoch),
        number(point.train_loss),
        *(number(observed.get(key)) for key in keys),
    ]

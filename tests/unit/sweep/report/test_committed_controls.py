"""Controls in the committed rows of all studies: copies are flagged, fresh images are not."""

import re
from collections.abc import Sequence

import pytest
from scipy.stats import binomtest

from benchmarks.published import study_rows
from benchmarks.recompute import DOCS, studies
from sweeps.report.row_runs import NEW, Row, rows_by_run

Runs = list[Sequence[Row]]


@pytest.fixture(scope="module")
def runs() -> Runs:
    """Return the new clients of each run that has controls."""
    found: Runs = []
    for folder in studies():
        rows = [row for row in study_rows(folder) if row["clients"] == NEW]
        found += [own for own in rows_by_run(rows).values() if own[0].get("kid_copies")]
    assert len(found) > 400
    return found


def test_copies_are_flagged_by_every_measure_in_every_run(runs: Runs) -> None:
    assert max(float(own[0]["nn_p_copies"]) for own in runs) < 0.001
    assert min(float(row["nn_auc_copies"]) for own in runs for row in own) > 0.95
    gaps = [float(gap) for own in runs for row in own if (gap := row.get("fld_gap_copies"))]
    assert len(gaps) > 1000
    assert set(gaps) == {-1000.0}


def test_fresh_images_are_flagged_as_rarely_as_results_say(runs: Runs) -> None:
    """The same images stand beside every method of a seed, and count once, as first scored.

    Those of earlier code, whose test mixed classes, are counted apart.
    """
    keys = ("partition_hash", "seed", "adapt.num_images")
    flagged: dict[bool, dict[tuple[str | None, ...], bool]] = {True: {}, False: {}}
    known = [own for own in runs if own[0].get("nn_p_fresh")]
    for own in sorted(known, key=lambda own: own[0]["started"]):
        key = tuple(own[0].get(k) for k in keys)
        flagged[_is_by_class(own)].setdefault(key, float(own[0]["nn_p_fresh"]) < 0.05)
    earlier = [is_so for key, is_so in flagged[False].items() if key not in flagged[True]]
    num, total = sum(flagged[True].values()), len(flagged[True])
    interval = binomtest(num, total, 0.05).proportion_ci()
    assert interval.low < 0.05
    said = re.search(
        r"of (\d+) sets of fresh images (\d+) have a p below 5 %, where an exact interval is "
        r"(\d+) to (\d+) %; of (\d+) more, [^;.]*, (\d+) have",
        " ".join((DOCS / "results.md").read_text().split()),
    )
    assert said is not None
    ends = [f"{100 * end:.0f}" for end in interval]
    numbers = (num, *ends, len(earlier), sum(earlier))
    assert said.groups() == (str(total), *map(str, numbers))


def _is_by_class(own: Sequence[Row]) -> bool:
    """Return whether images were exchanged within classes, as if a client has one class alone.

    Then chance is another one for fresh images than for a method's.
    """
    has_one_class = own[0].get("partition.classes_per_client") == "1"
    return has_one_class or any(row["nn_chance"] != row["nn_chance_fresh"] for row in own)


def test_copies_score_lower_than_every_method_from_16_images_on(runs: Runs) -> None:
    """With fewer they repeat what they have, and score higher than SPIRE."""
    by_images: dict[str, list[float]] = {}
    of_spire: dict[str, list[float]] = {}
    for own in (own for own in runs if float(own[0]["kid_before"]) < 8):  # else nothing was learnt
        copies, after = ([float(row[k]) for row in own] for k in ("kid_copies", "kid_after"))
        lead, images = (sum(copies) - sum(after)) / len(own), own[0].get("num_train", "")
        by_images.setdefault(images, []).append(lead)
        if own[0]["method"] == "spire":
            of_spire.setdefault(images, []).append(lead)
    means = {int(num): sum(leads) / len(leads) for num, leads in by_images.items()}
    beside_spire = {int(num): sum(leads) / len(leads) for num, leads in of_spire.items()}
    assert max(means[16], means[64], beside_spire[16], beside_spire[64]) < 0
    assert {num for num, lead in beside_spire.items() if lead > 0} == {1, 2, 4, 8}
    assert max(by_images["64"]) < 0

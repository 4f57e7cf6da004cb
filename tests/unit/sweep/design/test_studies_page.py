"""docs/studies.md and the sweeps' files name the same primary comparisons."""

import re
from pathlib import Path

import pytest

from sweeps.design.load import load_sweep, sweep_names
from sweeps.primary import primaries

PAGE = (Path(__file__).parents[4] / "docs" / "studies.md").read_text()
ROWS = dict(re.findall(r"^(\| [^|]*`spire sweep ([\w-]+)` \|.*)$", PAGE, re.MULTILINE))
ROWS = {name: row.split("|")[1:-1] for row, name in ROWS.items()}
STUDIES = [name for name in sweep_names() if load_sweep(name).primary]


def sections(measures: str) -> dict[str, str]:
    """Return what a row says of each family: `Name: ...` after `Holm within each`, else of all."""
    _, is_apart, apart = measures.partition("Holm within each")
    found = re.findall(r"\. ([A-Z][a-z -]+): (.*?)(?=\. [A-Z]|$)", apart)
    return {name.lower(): text for name, text in found} if is_apart else {"": measures}


def test_every_sweep_with_primary_comparisons_is_a_study_on_the_page() -> None:
    assert sorted(ROWS) == sorted([*STUDIES, "NAME"])  # the last is the template's


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_row_is_what_its_file_says(name: str) -> None:
    sweep, (_, _, _, new_clients, measures, seeds) = load_sweep(name), ROWS[name]
    first, last = map(int, seeds.strip().split(" to "))
    assert sweep.seeds == tuple(range(first, last + 1))
    of_family = sections(measures)
    assert {*of_family} == {one.family for one in primaries(sweep.primary)}
    for one in primaries(sweep.primary):
        assert f"`{one.method}`" in measures
        assert one.against == "spire" or f"against `{one.against}`" in measures
        margin = f"{100 * one.margin:g} %" if one.scale == "ratio" else f"{one.margin:g}"
        assert f"{one.scale}, {margin}" in of_family[one.family]
        for key in ("adapt.num_images", "privacy.adapt.epsilon"):
            if key in one.where:
                assert re.search(rf"\b{one.where[key]}\b", new_clients)

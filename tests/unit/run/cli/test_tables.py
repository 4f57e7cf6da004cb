"""Tables for a terminal."""

from pipeline.cli.tables import listing


def test_rows_that_are_too_wide_for_a_terminal_are_blocks_of_lines() -> None:
    narrow = [{"name": "a", "kid": 0.12345}, {"name": "b", "kid": None}]
    expected = "found\nname    kid\n   a  0.123\n   b      -\n\nn  1"
    assert listing({"found": narrow, "n": 1}) == expected
    wide = [{"name": "a", "advice": "x" * 300}, {"name": "b", "advice": "y"}]
    expected = f"found\nname    a\nadvice  {'x' * 300}\n\nname    b\nadvice  y\n\nn  1"
    assert listing({"found": wide, "n": 1}) == expected

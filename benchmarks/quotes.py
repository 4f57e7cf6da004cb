"""Where numbers stand on pages: in quotes, whose spaces and line ends may differ from a page's."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from benchmarks.published import Published
from spire_core.errors import DataError

Edit = tuple[int, int, str]  # of a page's text: start, end, what stands there instead
# What is no result: code, where links lead, a paper's number, the parameter of a distribution.
NO_RESULT = re.compile(r"`[^`\n]*`|\]\([^)\s]*\)|arXiv \d{4}\.\d{5}|Dirichlet\([\d.]+\)")
DECIMAL = re.compile(r"\d*\.\d+(?:e-?\d+)?|\b\d+e-\d+\b")


def edits_of(quote: str, printed: Sequence[tuple[str, str]], page: str) -> Iterator[Edit]:
    """Yield the edits that put new numbers in the place of old ones, in each copy of a quote."""
    for copy in _copies(quote, page):
        at = copy.start()
        for old, new in printed:
            found = _alone(old).search(page, at, copy.end())
            if found is None:
                raise DataError(f"expected {old} in its place in {quote!r}: order its lines")
            at = found.end()
            yield found.start(), at, new


def _copies(quote: str, page: str) -> list[re.Match[str]]:
    """Return where a quote stands on a page; DataError if nowhere."""
    words = r"\s+".join(re.escape(word) for word in quote.split())
    found = list(re.finditer(words, page))
    if not found:
        raise DataError(f"expected {quote!r} on its page: put the quote right")
    return found


def is_in(number: str, quote: str) -> bool:
    """Return whether a number stands in a quote, and not as a part of another one."""
    return _alone(number).search(quote) is not None


def _alone(number: str) -> re.Pattern[str]:
    """Return what finds a number that is no part of another one."""
    return re.compile(rf"(?<![\d.?\-−]){re.escape(number)}(?!\.?[\d?])")


def edited(text: str, edits: Sequence[Edit]) -> str:
    """Return a text after edits; DataError if two of them disagree about a place."""
    for (_, end, first), (start, _, second) in pairwise(edits):
        if start < end:
            raise DataError(f"expected one number in a place, got {first} and {second}")
    parts, at = list[str](), 0
    for start, end, new in edits:
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])


def unlisted(page: str, lines: Sequence[Published]) -> list[str]:
    """Return the decimals on a page's text that stand in no line and are no `NO_RESULT`.

    Each line is for one number. DataError if a quote is on the page twice, or not at all.
    """
    listed = set[Edit]()
    for quote, own in groupby(lines, lambda one: one.quote):
        if (num := len(_copies(quote, page))) > 1:
            raise DataError(f"expected {quote!r} once on its page, got {num}: quote more of it")
        listed |= set(edits_of(quote, [(one.printed, "") for one in own], page))
    return DECIMAL.findall(NO_RESULT.sub("", edited(page, sorted(listed))))

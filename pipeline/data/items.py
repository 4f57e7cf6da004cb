"""Images in memory one after another, each with its label, client and caption if it has them."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from spire_core.errors import DataError


class Item(NamedTuple):
    """One image, and what is known of it."""

    image: Any
    label: Any = None
    client: Any = None
    caption: Any = None


def items_of(
    images: Iterable[Any],
    labels: Sequence[Any] | None,
    clients: Sequence[Any] | None,
    captions: Sequence[str] | None,
) -> Iterable[Item]:
    """Yield each image with what is known of it; DataError if a list is too short or too long."""
    given = {"label": labels, "client": clients, "caption": captions}
    lists = {k: _iterated(values, f"{k}s") for k, values in given.items() if values is not None}
    end = object()
    for i, found in enumerate(_each(images)):
        own = {name: next(values, end) for name, values in lists.items()}
        short = [name for name, value in own.items() if value is end]
        if short:
            raise DataError(f"expected a {short[0]} of every image, got none of image {i}: add it")
        yield _checked(_item(found)._replace(**own), i)
    more = [name for name, values in lists.items() if next(values, end) is not end]
    if more:
        raise DataError(f"expected one {more[0]} of every image, got more: drop those left over")


def _each(images: Any) -> Iterable[Any]:
    """Yield what a data set has, also of one that is known by length and index alone."""
    if isinstance(images, Mapping):
        keys = ", ".join(map(str, itertools.islice(images, 5)))
        raise DataError(
            f"expected images one after another, got a mapping of {keys:.80}: give one split, or "
            "columns as images, labels, clients and captions"
        )
    is_indexed = hasattr(images, "__len__") and hasattr(images, "__getitem__")
    if is_indexed and getattr(images, "shape", None) != ():
        return (images[i] for i in range(len(images)))  # a torch Dataset need not end by itself
    return _iterated(images, "images")


def _iterated(values: Any, what: str) -> Iterator[Any]:
    """Return an iterator; DataError for something that has none, such as None."""
    try:
        return iter(values)
    except TypeError as error:
        raise DataError(
            f"expected {what} one after another, got {values!r:.50}: give a list or an array"
        ) from error


def _item(found: Any) -> Item:
    if isinstance(found, Mapping):
        known = {name: found.get(name) for name in Item._fields}
        return Item(**known)
    if isinstance(found, tuple | list) and len(found) == 2:
        return Item(*found)
    return Item(found)


def _checked(item: Item, i: int) -> Item:
    """Return an item with plain values; DataError for a caption that is no text."""
    label, client, caption = map(_plain, item[1:])
    if caption is not None and not isinstance(caption, str):
        raise DataError(f"expected a text as caption of image {i}, got {caption!r:.50}: choose one")
    return Item(item.image, label, client, caption)


def _plain(value: Any) -> Any:
    """Return a scalar of torch or NumPy as Python's, and NaN, as tables write none, as None."""
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError) as error:  # of several numbers
            raise DataError(
                f"expected one label and one client of an image, got {value!r:.80}: choose one"
            ) from error
    return None if isinstance(value, float) and math.isnan(value) else value

"""The numbers of images of a population whose clients all hold as many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class EqualSizes(Sequence[int]):
    """`size` for each of so many clients; no larger for a million of them than for ten."""

    size: int
    num_clients: int

    def __len__(self) -> int:
        return self.num_clients

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> "EqualSizes": ...

    def __getitem__(self, index: int | slice) -> "int | EqualSizes":
        chosen = range(self.num_clients)[index]
        return self.size if isinstance(chosen, int) else EqualSizes(self.size, len(chosen))

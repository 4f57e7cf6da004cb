"""One secure sum: the steps of its clients and of its server (Bonawitz et al. 2017, section 4).

1. Each client advertises two public keys (`ClientSecrets.public`).
2. It splits its masking key and the seed of its own mask into shares, sealed for each partner
   (`sealed_shares`); the server passes them on.
3. It sends y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv) modulo 2^64
   (`masked`), with s_uv agreed between u and v, and its own b_u.
4. The clients whose y has arrived remain in the sum. Each one that still answers reveals its shares
   of the seeds of clients that remain, and of the masking keys of those that dropped out, never
   both of one client (`revealed_shares`). The server subtracts all masks (`unmasked`).

More than two thirds of the holders of its shares are needed for a client's secret, and so many
have to remain. They are itself and its partners: all clients of a sum of up to `MAX_PARTNERS` + 1,
and in a larger one the nearest on a ring (Bell et al. 2020, "Secure single-server aggregation with
(poly)logarithmic overhead"), whose cost is linear in the clients.

Protected: single vectors, against a server that follows the protocol and colludes with no client.
Each y_u is uniform, whatever x_u is. Not protected: the sum itself. A server that lies about who
remains, or clients that send nonsense, are outside of it. x_u, y_u: (n,) uint64.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spire_core.errors import AggregationError
from spire_core.secure_sum import shamir
from spire_core.secure_sum.keys import (
    KEY_BYTES,
    ClientSecrets,
    PublicKeys,
    agreed_key,
    public_key,
    seal,
    stream,
    unseal,
)

MAX_PARTNERS = 64  # even: as many on both sides of the ring
Sealed = Mapping[int, bytes]  # by the client that it is for or from
Shares = Mapping[int, bytes]  # by the client whose secret it is a share of


@dataclass(frozen=True)
class SumPlan:
    """The public part of a sum: its name, which no other sum has, and its clients' keys."""

    name: str
    keys: Mapping[int, PublicKeys]

    @cached_property
    def members(self) -> list[int]:
        """All clients, in the order of the ring."""
        return sorted(self.keys)

    @cached_property
    def _positions(self) -> dict[int, int]:
        """Each client's place on the ring."""
        return {member: at for at, member in enumerate(self.members)}

    def partners(self, client_id: int) -> list[int]:
        """Return the clients with which a client shares masks, in ascending order."""
        members = self.members
        if len(members) <= MAX_PARTNERS + 1:
            return [other for other in members if other != client_id]
        at, half = self._positions[client_id], MAX_PARTNERS // 2
        steps = (*range(-half, 0), *range(1, half + 1))
        return sorted(members[(at + step) % len(members)] for step in steps)

    def holders(self, client_id: int) -> list[int]:
        """Return the clients with shares of a client's secrets: its partners and itself."""
        return sorted([*self.partners(client_id), client_id])

    @property
    def threshold(self) -> int:
        """The number of shares that a secret takes."""
        return threshold_of(len(self.keys))


def threshold_of(num_members: int) -> int:
    """Return how many of a client's share holders are needed in a sum of so many clients."""
    return 2 * min(num_members, MAX_PARTNERS + 1) // 3 + 1


# --- a client's steps ---


def sealed_shares(secrets: ClientSecrets, plan: SumPlan) -> dict[int, bytes]:
    """Return the shares of a client's two secrets for each holder, sealed for it alone."""
    own, holders, threshold = secrets.client_id, plan.holders(secrets.client_id), plan.threshold
    points = [holder + 1 for holder in holders]
    by_secret = [
        shamir.split(
            secret,
            points,
            threshold,
            secrets.derived(f"shares of {name}", shamir.num_random_bytes(threshold)),
        )
        for name, secret in (("seed", secrets.seed), ("key", secrets.masking))
    ]
    return {
        holder: seal(
            _sealing_key(secrets, plan, holder, own, holder),
            b"".join(shares[holder + 1] for shares in by_secret),
        )
        for holder in holders
    }


def masked(numbers: np.ndarray, secrets: ClientSecrets, plan: SumPlan) -> np.ndarray:
    """Return a client's numbers x_u (n,) uint64 under its masks, y_u."""
    own, total = secrets.client_id, numbers.copy()
    _add_stream(total, secrets.seed, 1)
    for other in plan.partners(own):
        seed = _mask_seed(secrets.masking, plan, own, other)
        _add_stream(total, seed, 1 if other > own else -1)
    return total


def revealed_shares(
    secrets: ClientSecrets, plan: SumPlan, sealed: Sealed, remaining: Collection[int]
) -> dict[int, bytes]:
    """Return the shares that a client reveals, of each client that sealed some for it.

    Of a client that remains it is that of the seed, of any other that of the masking key.
    AggregationError if too few holders of its own secrets, or of one of these clients', remain:
    then the sum would be of too few. With a frozenset `remaining` the cost does not grow with the
    sum.
    """
    own, present = secrets.client_id, frozenset(remaining)
    require_threshold(plan, present, {own, *sealed})
    found = {}
    for owner, content in sealed.items():
        both = unseal(_sealing_key(secrets, plan, owner, owner, own), content)
        halves = both[: shamir.SHARE_BYTES], both[shamir.SHARE_BYTES :]
        found[owner] = halves[0] if owner in present else halves[1]
    return found


# --- the server's steps ---


def require_threshold(
    plan: SumPlan, remaining: Collection[int], owners: Iterable[int] | None = None
) -> None:
    """Raise AggregationError if too few holders of an owner's shares are among those that remain.

    `owners`: the clients whose shares count; None are all clients of the sum.
    """
    present = frozenset(remaining)
    owners = plan.members if owners is None else owners
    fewest = min(sum(holder in present for holder in plan.holders(owner)) for owner in owners)
    if fewest < plan.threshold:
        raise AggregationError(
            f"expected at least {plan.threshold} of {min(len(plan.keys), MAX_PARTNERS + 1)} "
            f"clients to stay until their secure sum {plan.name} is unmasked, got {fewest}: "
            "the masks of the others cannot be taken off, so lower federation.drop_rate, or see "
            "the log for clients that failed"
        )


def unmasked(
    total: np.ndarray, plan: SumPlan, remaining: Collection[int], revealed: Mapping[int, Shares]
) -> np.ndarray:
    """Return the sum of x_u over the clients that remain, from the sum of their y_u.

    `revealed`: by client that still answers, its `revealed_shares`. AggregationError if these are
    fewer than the threshold, or do not fit.
    """
    require_threshold(plan, revealed)
    total, present = total.copy(), set(remaining)
    for member in plan.members:
        secret = _joined(plan, member, revealed)
        if member in present:
            _add_stream(total, secret, -1)
            continue
        if public_key(secret) != plan.keys[member].masking:
            raise _misfit(plan, member)
        for other in plan.partners(member):  # the masks that those who remain have added for it
            if other in present:
                seed = _mask_seed(secret, plan, member, other)
                _add_stream(total, seed, -1 if member > other else 1)
    return total


def _joined(plan: SumPlan, member: int, revealed: Mapping[int, Shares]) -> bytes:
    """Return a member's secret of which shares are revealed."""
    holders = [holder for holder in plan.holders(member) if holder in revealed][: plan.threshold]
    try:
        shares = {holder + 1: revealed[holder][member] for holder in holders}
        return shamir.join(shares, KEY_BYTES)
    except (KeyError, ValueError) as error:
        raise _misfit(plan, member) from error


def _misfit(plan: SumPlan, member: int) -> AggregationError:
    return AggregationError(
        f"expected shares of client {member}'s secret in the secure sum {plan.name}, got some that "
        "do not fit together: all processes must work on the same run"
    )


def _sealing_key(
    secrets: ClientSecrets, plan: SumPlan, other: int, sender: int, receiver: int
) -> bytes:
    """Return the key for what one client seals for another; each direction has its own."""
    purpose = f"{plan.name}/shares of {sender} for {receiver}"
    return agreed_key(secrets.sealing, plan.keys[other].sealing, purpose)


def _mask_seed(private: bytes, plan: SumPlan, own: int, other: int) -> bytes:
    """Return the seed s_uv of the mask that two clients share."""
    purpose = f"{plan.name}/mask of {min(own, other)} and {max(own, other)}"
    return agreed_key(private, plan.keys[other].masking, purpose)


def _add_stream(total: np.ndarray, seed: bytes, sign: int) -> None:
    """Add a seed's stream to integers modulo 2^64, or subtract it."""
    operation = np.add if sign > 0 else np.subtract
    for at, numbers in stream(seed, total.size):
        operation(total[at], numbers, out=total[at])

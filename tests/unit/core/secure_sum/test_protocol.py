"""Masks cancel exactly in the sum of those that remain, and hide every vector in any other."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from spire_core.errors import AggregationError
from spire_core.secure_sum import protocol
from spire_core.secure_sum.keys import ClientSecrets, agreed_key, seal, unseal
from spire_core.secure_sum.protocol import (
    SumPlan,
    masked,
    revealed_shares,
    sealed_shares,
    unmasked,
)
from spire_core.secure_sum.shamir import PRIME, join, num_random_bytes, split

MASTER, SIZE = bytes(range(32)), 2000
PUBLIC = ClientSecrets(MASTER, "round 4", 0).public
COHORT = [3, 0, 11, 7, 20, 5, 8]


class Members:
    """All clients of a sum, and the messages between them."""

    def __init__(self, cohort: Sequence[int] = COHORT, name: str = "round 4") -> None:
        self.secrets = {c: ClientSecrets(MASTER, name, c) for c in cohort}
        self.plan = SumPlan(name, {c: own.public for c, own in self.secrets.items()})
        self.sealed: dict[int, dict[int, bytes]] = {c: {} for c in cohort}
        for owner, own in self.secrets.items():
            for holder, content in sealed_shares(own, self.plan).items():
                self.sealed[holder][owner] = content

    def masked(self, client_id: int, numbers: np.ndarray) -> np.ndarray:
        return masked(numbers, self.secrets[client_id], self.plan)

    def revealed(self, remaining: Sequence[int], answering: Sequence[int]) -> dict:
        return {
            c: revealed_shares(self.secrets[c], self.plan, self.sealed[c], remaining)
            for c in answering
        }


def vectors(cohort: Sequence[int], seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {c: rng.integers(2**64, size=SIZE, dtype=np.uint64) for c in cohort}


def total(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.sum(arrays, axis=0, dtype=np.uint64)


@pytest.mark.parametrize(
    ("dropped", "silent"),
    [([], []), ([11], []), ([], [0]), ([3, 20], []), ([], [3, 20]), ([7], [0])],
)
def test_the_sum_of_those_that_remain_is_the_plain_one_bit_for_bit(
    dropped: list[int], silent: list[int]
) -> None:
    """Clients drop out before they send, or send and then fall silent."""
    members, of_client = Members(), vectors(COHORT)
    remaining = [c for c in COHORT if c not in dropped]
    answering = [c for c in remaining if c not in silent]
    seen = total([members.masked(c, of_client[c]) for c in remaining])
    revealed = members.revealed(remaining, answering)
    found = unmasked(seen, members.plan, remaining, revealed)
    np.testing.assert_array_equal(found, total([of_client[c] for c in remaining]))
    assert (seen != found).mean() > 0.99


@pytest.mark.parametrize(("dropped", "silent"), [([0, 3, 5], []), ([], [0, 3, 5]), ([0, 3], [5])])
def test_too_few_that_stay_are_one_sentence(dropped: list[int], silent: list[int]) -> None:
    members, of_client = Members(), vectors(COHORT)
    remaining = [c for c in COHORT if c not in dropped]
    seen = total([members.masked(c, of_client[c]) for c in remaining])
    answering = [c for c in remaining if c not in silent]

    def unmask() -> None:
        unmasked(seen, members.plan, remaining, members.revealed(remaining, answering))

    with pytest.raises(AggregationError, match=r"^expected at least 5 of 7 clients .*, got 4: "):
        unmask()


def test_fewer_shares_than_the_threshold_give_no_secret() -> None:
    secret, randomness = bytes(range(32)), np.random.default_rng(0).bytes(num_random_bytes(5))
    shares = split(secret, [1, 4, 12, 8, 21, 6, 9], 5, randomness)
    points = sorted(shares)
    assert join({p: shares[p] for p in points[:5]}, 32) == secret
    assert join({p: shares[p] for p in points[-5:]}, 32) == secret
    with pytest.raises(ValueError, match="no secret"):  # below 2^256 of 2^521 by chance: never
        join({p: shares[p] for p in points[:4]}, 32)
    # A line by hand: f(x) = 7 + 2 x.
    line = split(b"\x07", [1, 2, 3], 2, (2).to_bytes(66, "big"))
    assert [int.from_bytes(line[p], "big") for p in (1, 2, 3)] == [9, 11, 13]
    assert int.from_bytes(split(b"\x07", [5], 2, PRIME.to_bytes(66, "big"))[5], "big") == 7


@pytest.mark.parametrize("client_id", COHORT[:3])
@pytest.mark.parametrize("name", ["round 4", "round 5"])
def test_a_masked_vector_is_uniform_and_unlike_its_input(client_id: int, name: str) -> None:
    numbers = np.linspace(0, 2**40, 20000).astype(np.uint64)
    hidden = Members(name=name).masked(client_id, numbers) / 2.0**64
    counts = np.histogram(hidden, bins=20, range=(0, 1))[0]
    # Chi-squared with 19 degrees of freedom: above 60 with a probability of 4e-6.
    assert ((counts - 1000) ** 2 / 1000).sum() < 60
    assert abs(np.corrcoef(hidden, numbers)[0, 1]) < 5 / np.sqrt(20000)


def test_what_is_left_of_one_secret_still_hides_a_vector() -> None:
    """All partners' masks are known, as after a drop-out: the client's own mask remains."""
    members, zero = Members(), np.zeros(SIZE, dtype=np.uint64)
    others = [c for c in COHORT if c != 5]
    revealed = members.revealed(others, others)  # 5 counts as dropped: its masking key is known
    late = members.masked(5, zero)
    seen = total([members.masked(c, zero) for c in others])
    assert not unmasked(seen, members.plan, others, revealed).any()
    for other in others:
        seed = protocol._mask_seed(members.secrets[5].masking, members.plan, 5, other)
        protocol._add_stream(late, seed, -1 if other > 5 else 1)
    assert np.unique(late).size == SIZE


def test_equal_vectors_look_different_per_client_and_per_sum() -> None:
    zero = np.zeros(100, dtype=np.uint64)
    views = [m.masked(c, zero) for c in COHORT for m in (Members(), Members(name="round 5"))]
    for i, one in enumerate(views):
        for other in views[i + 1 :]:
            assert (one != other).all()


def test_a_client_never_reveals_both_secrets_of_another() -> None:
    members = Members()
    remaining = [c for c in COHORT if c != 7]
    for c, shares in members.revealed(remaining, remaining).items():
        for owner, share in shares.items():
            key = protocol._sealing_key(members.secrets[c], members.plan, owner, owner, c)
            seed_half, key_half = np.array_split(
                np.frombuffer(unseal(key, members.sealed[c][owner]), np.uint8), 2
            )
            assert share == (key_half if owner == 7 else seed_half).tobytes()


def test_a_large_sum_masks_with_partners_on_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_PARTNERS", 4)
    cohort = list(range(0, 24, 2))
    members, of_client = Members(cohort), vectors(cohort)
    assert members.plan.partners(0) == [2, 4, 20, 22]
    for c in cohort:
        for other in members.plan.partners(c):
            assert c in members.plan.partners(other)
    remaining = [c for c in cohort if c not in (6, 16)]
    seen = total([members.masked(c, of_client[c]) for c in remaining])
    found = unmasked(seen, members.plan, remaining, members.revealed(remaining, remaining))
    np.testing.assert_array_equal(found, total([of_client[c] for c in remaining]))


def test_a_client_of_a_large_sum_refuses_where_its_own_owners_have_too_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each secret in this ring of 12 has five holders, of which four have to stay."""
    monkeypatch.setattr(protocol, "MAX_PARTNERS", 4)
    members = Members(list(range(12)))
    remaining = [c for c in range(12) if c not in (5, 6)]  # three holders of the secrets 4 to 7
    for c in remaining:
        if c in (0, 1, 10, 11):  # they hold shares of no such secret
            assert len(members.revealed(remaining, [c])[c]) == 5
            continue
        with pytest.raises(AggregationError, match=r"^expected at least 4 of 5 clients .*, got 3:"):
            members.revealed(remaining, [c])
    with pytest.raises(AggregationError, match=r", got 3: "):  # also where it holds no share
        revealed_shares(members.secrets[0], members.plan, {}, [0, 1, 11])


class Unsearched(list[int]):
    """Members whose places are known without a search."""

    def index(self, *_: Any) -> int:
        raise AssertionError("the clients are searched for one of them")


def test_a_large_ring_is_never_searched() -> None:
    plan = SumPlan("round 4", dict.fromkeys(range(0, 9000, 3), PUBLIC))
    plan.__dict__["members"] = Unsearched(plan.members)  # where it is cached
    for at, member in enumerate(plan.members):
        nearest = {3 * (place % 3000) for place in range(at - 32, at + 33)}
        assert plan.holders(member) == sorted(nearest)


def test_what_a_client_checks_before_it_reveals_does_not_grow_with_the_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "MAX_PARTNERS", 4)
    members, asked = Members(list(range(40))), []
    holders = SumPlan.holders

    def counted(plan: SumPlan, client_id: int) -> list[int]:
        asked.append(client_id)
        return holders(plan, client_id)

    monkeypatch.setattr(SumPlan, "holders", counted)
    members.revealed(range(40), [7])
    assert sorted(asked) == [5, 6, 7, 8, 9]


def test_keys_agree_both_ways_and_what_is_sealed_cannot_be_changed() -> None:
    one, other = (ClientSecrets(MASTER, "a", c) for c in (0, 1))
    key = agreed_key(one.masking, other.public.masking, "p")
    assert key == agreed_key(other.masking, one.public.masking, "p")
    assert key != agreed_key(one.masking, other.public.masking, "q")
    sealed = seal(key, b"content")
    assert unseal(key, sealed) == b"content"
    with pytest.raises(ValueError, match="changed"):
        unseal(key, sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_secrets_differ_and_can_be_neither_sent_nor_printed() -> None:
    secrets = [ClientSecrets(m, n, c) for m in (MASTER, bytes(32)) for n in "ab" for c in (0, 1)]
    assert len({s.masking for s in secrets} | {s.sealing for s in secrets}) == 16
    with pytest.raises(TypeError, match="stay in their process"):
        pickle.dumps(secrets[0])
    assert MASTER.hex() not in repr(secrets[0])


def test_shares_of_another_run_are_one_sentence() -> None:
    members, remaining = Members(), [c for c in COHORT if c != 7]
    strange = {c: dict.fromkeys(COHORT, (3).to_bytes(66, "big")) for c in remaining}
    with pytest.raises(AggregationError, match=r"^expected shares of client 7's secret"):
        unmasked(np.zeros(3, np.uint64), members.plan, remaining, strange)

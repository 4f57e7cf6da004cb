"""The running sum of a round: its special cases, its bounds, and what the server sees of it."""

from typing import Any

import numpy as np
import pytest
from plain_mean import average

from spire_core.errors import DivergenceError
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate
from spire_core.federated.sums import (
    HiddenSum,
    SecureFormat,
    UpdateSum,
    vector_form,
)
from spire_core.rng import numpy_generator

SIZE = 200


def update(client_id: int, seed: int = 0, **changes: Any) -> ClientUpdate:
    """Moments that keep Adam's bound, m^2 <= v, some of them with equality."""
    rng = numpy_generator(seed, "moments", client_id)
    first = 1e-3 * rng.normal(size=SIZE)
    second = first**2 * np.maximum(1.0, rng.normal(size=SIZE) + 1)
    weights = 0.1 * rng.normal(size=SIZE)
    arrays = [a.astype(np.float32) for a in (weights, first, second, np.full(4, 4.0))]
    fields = {"weights": arrays[0], "moments": AdamMoments(*arrays[1:]), "loss": 0.5 + client_id}
    return ClientUpdate(client_id, 10 + client_id, 4, **(fields | changes))


def broadcast() -> Broadcast:
    one = update(99)
    return Broadcast(one.weights, one.moments)


def examples_of(updates: list[ClientUpdate]) -> int:
    return sum(one.num_examples for one in updates)


def test_of_one_client_it_is_that_client() -> None:
    [one] = sent = [update(3)]
    mean = average(sent, broadcast())
    assert mean.moments is not None
    for found, own in zip((mean.weights, *mean.moments.arrays), one.arrays, strict=True):
        np.testing.assert_array_equal(found, own)


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_who_computes_whom_changes_no_bit(num_workers: int) -> None:
    updates = [update(k) for k in range(7)]
    sums = [UpdateSum(broadcast(), examples_of(updates)) for _ in range(num_workers)]
    for one in updates[::-1]:
        sums[one.client_id % num_workers].add(one)
    whole, *parts = sums
    for part in parts:
        whole.merge(part)
    assert sorted(whole.client_ids) == list(range(7))
    found, expected = whole.mean(), average(updates, broadcast())
    np.testing.assert_array_equal(found.weights, expected.weights)


@pytest.mark.parametrize("num_clients", [3, 7])
@pytest.mark.parametrize("is_secure", [False, True])
def test_adams_moments_stay_moments(num_clients: int, is_secure: bool) -> None:
    for seed in range(5):
        updates = [update(k, seed) for k in range(num_clients)]
        mean = average(updates, broadcast())
        if is_secure:
            form = SecureFormat(broadcast(), SIZE, True, examples_of(updates))
            total = HiddenSum(form.size)
            for one in updates:
                total.add(one.client_id, one.num_examples, form.encode(one))
            hidden = form.decode(total)
            np.testing.assert_allclose(hidden.weights, mean.weights, atol=1e-6)
            weights = [one.num_examples for one in updates]
            assert hidden.loss == pytest.approx(
                np.average([u.loss for u in updates], weights=weights)
            )
            mean = hidden
        assert mean.moments is not None
        first, second, _ = (a.astype(np.float64) for a in mean.moments.arrays)
        assert (second >= 0).all()
        assert (first**2 <= second * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"weights": np.full(SIZE, np.nan, np.float32)},
        {"loss": float("nan")},
        {"moments": AdamMoments(*[np.full(n, np.inf, np.float32) for n in (SIZE, SIZE, 4)])},
    ],
)
@pytest.mark.parametrize("is_secure", [False, True])
def test_an_update_that_is_not_finite_names_its_client(
    bad: dict[str, Any], is_secure: bool
) -> None:
    one = update(3, **bad)
    secure, plain = SecureFormat(broadcast(), SIZE, True, 13), UpdateSum(broadcast(), 13)
    take = secure.encode if is_secure else plain.add
    with pytest.raises(DivergenceError, match=r"client 3: lower client\.lr"):
        take(one)


def test_gradients_may_grow_by_four_orders_of_magnitude_between_two_rounds() -> None:
    """As Adam's moments grow in four steps on such gradients."""
    before, growth = update(0), 1e4
    first, second, steps = before.moments.arrays if before.moments else ()
    grown = (
        (0.9**4 * first + (1 - 0.9**4) * growth * first).astype(np.float32),
        (0.999**4 * second + (1 - 0.999**4) * growth**2 * second).astype(np.float32),
        steps + 4,
    )
    after = update(0, weights=before.weights + np.float32(8e-3), moments=AdamMoments(*grown))
    mean = average([after], Broadcast(before.weights, before.moments))
    assert mean.moments is not None
    for found, own in zip(mean.moments.arrays, grown, strict=True):
        np.testing.assert_array_equal(found, own)


def test_vectors_are_summed_in_steps_of_two_to_the_minus_32() -> None:
    rows = np.array([[1.0, -0.25], [2**-33, 0.75], [3.0, 0.0]], np.float32)
    form, total = vector_form(3), HiddenSum(2)
    for client_id, row in enumerate(rows):
        total.add(client_id, 1, form.encode(row))
    assert form.unit == -32
    np.testing.assert_allclose(form.decode(total.numbers), rows.sum(axis=0), atol=2**-32)
    with pytest.raises(DivergenceError):
        form.encode(np.array([np.nan], np.float32))

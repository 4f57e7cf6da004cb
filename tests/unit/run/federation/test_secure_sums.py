"""Sums of masked vectors on the server: modulo 2^64, and no larger than one of them."""

import tracemalloc

import numpy as np

from pipeline.federation.secure_sums import added


def test_masked_vectors_are_added_modulo_2_to_the_64() -> None:
    vectors = [np.array([2**63, 5], np.uint64), np.array([2**63 + 3, 2**64 - 1], np.uint64)]
    for vector in vectors:
        vector.setflags(write=False)  # as those that Ray brings
    assert added(vectors).tolist() == [3, 4]
    assert added(vectors[:1]).tolist() == [2**63, 5]


def test_many_vectors_are_added_in_the_room_of_one() -> None:
    vectors = [np.full(100_000, i, np.uint64) for i in range(20)]
    tracemalloc.start()
    total = added(vectors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (total == sum(range(20))).all()
    assert peak < 2 * total.nbytes

"""What Ray Tune leaves behind in the process of a sweep."""

import signal
from types import FrameType

from ray.tune.tune import _setup_signal_catching

from sweeps.execution.tune import SIGNALS, _signals_end_trials


def test_signals_after_the_trials_do_what_they_did_before() -> None:
    """Tune's own handler would only note the first Ctrl-C, in a loop that is over."""
    caught: list[int] = []

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in SIGNALS}
    try:
        with _signals_end_trials():
            is_interrupted = _setup_signal_catching()
            signal.raise_signal(signal.SIGTERM)
            assert is_interrupted.is_set()
            _setup_signal_catching()
        for number in SIGNALS:
            signal.raise_signal(number)
        assert caught == list(SIGNALS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

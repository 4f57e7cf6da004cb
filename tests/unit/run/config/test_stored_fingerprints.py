"""The fingerprints under which runs, checkpoints and sweeps are stored, of all presets and methods.

They are written out here, so that no change of a setting alters them unnoticed.
"""

import pytest

from pipeline.config.equivalence import fingerprint, pretrain_fingerprint
from pipeline.config.load import load_config, preset_names
from spire_core.methods import METHODS

STORED = {
    "cifar10": ("e15c77bb3eae0130", "05df3f77887e2b18"),
    "cifar10-cpu": ("4141344659670d02", "6db81eb4fe439b12"),
    "fashion-cpu": ("c4bb1032286959e8", "070547b97767a605"),
    "fonts-cpu": ("483db20d18ee7e2f", "dd61e8f909286be5"),
    "mnist": ("9968a6c9f1754c2c", "6906136a4d677df7"),
    "mnist-cpu": ("a4113a25cee73acd", "a1462e02737b5eb9"),
    "smoke": ("9e219e17543a85b7", "890b3534cda90c68"),
    "smoke method=spire": ("9e219e17543a85b7", "890b3534cda90c68"),
    "smoke method=fedavg_ft": ("8c5b171fe06a1135", "aa0c38007d9041f3"),
    "smoke method=shared_rep": ("d406114ef10ae10c", "3f520b0752f69f77"),
    "smoke method=fedavg": ("6dd56f8a82a13fbb", "aa0c38007d9041f3"),
    "smoke method=local": ("4bdbe35589748785", "4e9b4c59866df8fc"),
}


def found(words: str) -> tuple[str, str]:
    preset, *overrides = words.split()
    config = load_config(preset, overrides)
    return fingerprint(config)[:16], pretrain_fingerprint(config)[:16]


def test_all_presets_and_methods_are_written_out() -> None:
    expected = {*preset_names(), *(f"smoke method={method}" for method in METHODS)}
    assert set(STORED) == expected


@pytest.mark.parametrize("words", STORED)
def test_a_fingerprint_is_that_of_earlier_runs(words: str) -> None:
    assert found(words) == STORED[words], (
        f"the fingerprints of `{words}` are not those of earlier runs, so their sweeps and "
        "checkpoints would not be taken up: undo the change of the settings or, if it is meant, "
        "raise NUMBERS in pipeline/config/equivalence.py if the same settings now mean another "
        f"result, write it into CHANGELOG.md, store {found(words)} here, and run "
        "benchmarks/fingerprints.py for the config_fingerprints in benchmarks/results"
    )

"""The fingerprints under which runs, checkpoints and sweeps are stored, of all presets and methods.

They are written out here, so that no change of a setting alters them unnoticed.
"""

import pytest

from pipeline.config.equivalence import fingerprint, pretrain_fingerprint
from pipeline.config.load import load_config, preset_names
from spire_core.methods import METHODS

STORED = {
    "cifar10": ("8126c6bb06104c5c", "bb7f33930bdfb855"),
    "cifar10-cpu": ("a9c75f55f37d1f3c", "46f423b14ed3579d"),
    "fashion-cpu": ("65a107bd0e61af6d", "f4b6a21887d9a14e"),
    "mnist": ("26f7b716fa484f1f", "095590cd6e244806"),
    "mnist-cpu": ("56ae6fdbcfb0d39b", "eebce982117ecec8"),
    "smoke": ("049674ff5d3de16e", "484eba6f8a5ab5ca"),
    "smoke method=spire": ("049674ff5d3de16e", "484eba6f8a5ab5ca"),
    "smoke method=fedavg_ft": ("ed22762f0dabb4e9", "6bb40978801b9371"),
    "smoke method=shared_rep": ("0e5ee5e8e6090d4f", "a17ed9b4350ff4ae"),
    "smoke method=fedavg": ("ab722b6a2eb811d5", "6bb40978801b9371"),
    "smoke method=local": ("dd6db03e6417e698", "ebc0221981616c31"),
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

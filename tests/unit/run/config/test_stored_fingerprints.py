"""The fingerprints under which runs, checkpoints and sweeps are stored, of all presets and methods.

They are written out here, so that no change of a setting alters them unnoticed.
"""

import pytest

from pipeline.config.equivalence import fingerprint, pretrain_fingerprint
from pipeline.config.load import load_config, preset_names
from spire_core.methods import METHODS

STORED = {
    "cifar10": ("7740ad484b812fa6", "17eb39c407fc2ccf"),
    "cifar10-cpu": ("aaa087827d11db47", "0ca3a3680f7cbdda"),
    "fashion-cpu": ("851368484954b2ef", "4f3be13b008810a2"),
    "folder-cpu": ("421d47b5b4271c67", "b0545b07cc526e00"),
    "fonts-cpu": ("3919af88677bdc42", "eea3ccf88987a103"),
    "mnist": ("e03a3f9828032ab0", "270bc63b6a90c408"),
    "mnist-cpu": ("f266eff91657ff83", "164da8a8cd88ac6d"),
    "retrofit-cpu": ("3fa236c32a99e95e", "f14f80deb9b08f8f"),
    "smoke": ("07c8e83d609b9e6c", "a91a7fde4e79b3ff"),
    "smoke method=spire": ("07c8e83d609b9e6c", "a91a7fde4e79b3ff"),
    "smoke method=fedavg_ft": ("f2259ad3f8e1ce45", "d7c8dc4af9163145"),
    "smoke method=shared_rep": ("5c7a6a8ae49402a5", "5cfc8dc892b25b13"),
    "smoke method=fedavg": ("ff85558c3dac1c64", "d7c8dc4af9163145"),
    "smoke method=local": ("1812c6b8aeb6feda", "bfff1c270ea6aa03"),
    "smoke method=lora": ("2bdb7992521b2733", "52be3e6983f32496"),
    "smoke method=bias": ("363c4e8cedc520e6", "9e4bf189aae914bd"),
    "smoke method=diffit": ("d364353e9dcf84b5", "c3fd9ad86d599d39"),
}


def found(words: str) -> tuple[str, str]:
    preset, *overrides = words.split()
    config = load_config(preset, overrides)
    return fingerprint(config)[:16], pretrain_fingerprint(config)[:16]


def test_all_presets_and_methods_are_written_out() -> None:
    alone = [name for name in METHODS if not METHODS[name].is_frozen]
    expected = {*preset_names(), *(f"smoke method={method}" for method in alone)}
    assert set(STORED) == expected


@pytest.mark.parametrize("words", STORED)
def test_a_fingerprint_is_that_of_earlier_runs(words: str) -> None:
    assert found(words) == STORED[words], (
        f"the fingerprints of `{words}` are not those of earlier runs, so their sweeps and "
        "checkpoints would not be taken up: undo the change of the settings or, if it is meant, "
        "raise NUMBERS in pipeline/config/equivalence.py if the same settings now mean another "
        f"result, write it into CHANGELOG.md, and store {found(words)} here"
    )

"""The public data sets: shapes, class names, and the hashes that decide what they are.

Of the fonts the files have a known hash. `pipeline.data.glyphs` draws them, and its pixels depend
on the version of FreeType.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.data.glyphs import CHARACTERS, SIZES


@dataclass(frozen=True)
class DatasetSpec:
    """A data set with known content."""

    image_shape: tuple[int, int, int]  # (C, H, W)
    num_train: int  # images
    class_names: tuple[str, ...]
    sha256: Mapping[str, tuple[str, ...]]  # array -> hashes of equal parts of it


_GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
_GARMENTS += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# Hashes of the decoded arrays, labels as little-endian int64. CIFAR-10's training split is
# published in five files, each of which has its own.
SPECS: Mapping[str, DatasetSpec] = {
    "mnist": DatasetSpec(
        (1, 28, 28),
        60000,
        tuple("0123456789"),
        {
            "train_images": ("741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",),
            "train_labels": ("e474323ac02fc156161b0bbb1f8c9cfeb327a74bcd9f9680a8385269a24f566c",),
            "test_images": ("6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",),
            "test_labels": ("2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243",),
        },
    ),
    "fashion_mnist": DatasetSpec(
        (1, 28, 28),
        60000,
        _GARMENTS,
        {
            "train_images": ("2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",),
            "train_labels": ("e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",),
            "test_images": ("c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",),
            "test_labels": ("d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae",),
        },
    ),
    "cifar10": DatasetSpec(
        (3, 32, 32),
        50000,
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        {
            "train_images": (
                "a50e8b48728e1667d682a807155c375279d5ae321fb12242c02e3104a6bc8b21",
                "0b825e5592c3b72ea18d6ec2ff5f5b19d33e41a75f5039054a9bb87be3cf69a0",
                "c6ee1dd4601a69ec085d8ebf53ee6441775491a6839a0a9ae8fa198e88a3a429",
                "1f6b6c799cff375a9f8fae2fac909d51ee09f38a6a60eebb9e8fec6f47ddc48f",
                "58e3bbf713e28357476a351d3a05d056372f94c681d04ca9d62a076fdf2a643b",
            ),
            "train_labels": (
                "66145c918fed3a0358c4001da734fbc15cb584ddf34c823fa524e6b9c81542b7",
                "1074c604720c88e1f4d8408e1995944e9bc65877af3e8c5503da69209d57286b",
                "fe1021a9820682f7eb5cc7f65ff3d015d8a33876df6dd7787404f0fa8cf5937f",
                "1599745ad42ec41be72e2f3f716b65bac89321693690656a125b1ea3ca3feeea",
                "a3a7f0cf6cafd5b2d4610fd467bd87987a0a9ff93958b860a567c925a00ad56d",
            ),
            "test_images": ("177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",),
            "test_labels": ("cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",),
        },
    ),
    # `files`: those of Debian's package. `drawn`: their glyphs and names with FreeType 2.14.3.
    "fonts": DatasetSpec(
        (1, max(SIZES), max(SIZES)),
        320 * len(CHARACTERS),
        tuple(CHARACTERS),
        {
            "files": ("071c10482f0f7486ba6bdabc9b80dc96314674ab8d9fb710d741e253b3c1747d",),
            "drawn": ("a450c9a45e0adfc617ae2c9825732b302808edf294ac56db5efd52eb554a3090",),
        },
    ),
}

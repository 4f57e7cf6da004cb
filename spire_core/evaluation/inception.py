"""torch-fidelity's Inception v3, whose features are the usual ones for KID."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from spire_core.errors import WeightsError

INCEPTION = "inception-v3-compat"
INCEPTION_FEATURES = 2048


def inception(weights_path: Path | None) -> nn.Module:
    """Return torch-fidelity's InceptionV3: images (B, 3, H, W) uint8 -> (features (B, 2048),).

    Without a path, torch-fidelity takes the weights (91 MB) from torch's cache or downloads them.
    Raises `WeightsError` if both fail, or if the file holds anything else.
    """
    from torch_fidelity.utils import create_feature_extractor

    path = None if weights_path is None else str(weights_path)
    try:
        with tempfile.TemporaryDirectory(prefix="spire-") as folder:
            copy = None
            if path is not None:
                # torch-fidelity unpickles any content: it gets a new file with the tensors alone.
                copy = str(Path(folder, "tensors.pth"))
                torch.save(torch.load(path, weights_only=True), copy)
            return create_feature_extractor(
                INCEPTION,
                [str(INCEPTION_FEATURES)],
                cuda=False,
                feature_extractor_weights_path=copy,
                verbose=False,
            )
    except Exception as error:  # a wrong file can raise anything
        source = "be downloaded" if path is None else f"be loaded from {path}"
        raise WeightsError(
            f"the weights of {INCEPTION} cannot {source} ({type(error).__name__}): pass "
            "eval.extractor_weights=PATH, choose cifar10-cnn as "
            "eval.extractor, or none for scores without features"
        ) from error

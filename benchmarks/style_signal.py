"""How much of clients' styles a score sees, before anything is trained.

For each new client of a world, the KID between its held-out images and equally many real images of
all pre-training clients: what a perfect model that is not personal would score. One process.

    python -m benchmarks.style_signal study-styles-cpu partition.style=rotation
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.ended import USER_ERROR, ended
from pipeline.federation.setup import prepare
from spire_core.evaluation.extractors import make_extractor
from spire_core.evaluation.kid import kid
from spire_core.training.fit import to_float
from sweeps.design.load import load_sweep
from sweeps.design.points import make_trial

NUM_IMAGES = 600


def unpersonal_kids(sweep_name: str, overrides: Sequence[str]) -> list[float]:
    """Return the KID of each new client of a sweep's first trial."""
    sweep = load_sweep(sweep_name, overrides)
    setup = prepare(make_trial(sweep, {"method": "spire"}, sweep.seeds[0]).config)
    extractor = make_extractor(setup.extractor)
    rng = np.random.default_rng(setup.config.seed)
    old = np.concatenate([client.train for client in setup.partition.train_clients])
    drawn = rng.choice(old, NUM_IMAGES, replace=False)
    features = [
        extractor.features(to_float(torch.from_numpy(setup.images[at])))
        for at in (drawn, *(client.test[:NUM_IMAGES] for client in setup.partition.new_clients))
    ]
    return [kid(own, features[0]).mean for own in features[1:]]


def main(words: Sequence[str]) -> int:
    """Print the KIDs, and return the exit code."""
    if not words:
        print(__doc__, file=sys.stderr)
        return USER_ERROR
    kids = unpersonal_kids(words[0], words[1:])
    print("KID", *(f"{value:.3f}" for value in kids), f"mean {np.mean(kids):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(ended(lambda: main(sys.argv[1:])))

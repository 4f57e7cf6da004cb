"""Between what a size may lie: far above what anybody computes, and below what fills a machine.

A number with three zeros too many is refused before anything is allocated or begun.
"""

from collections.abc import Mapping
from operator import attrgetter

from spire_core.errors import ConfigError

MAX_IMAGE_SIZE = 1024  # pixels of a side
Ranges = Mapping[str, tuple[float, float]]

EXPERIMENT: Ranges = {
    "data.image_size": (1, MAX_IMAGE_SIZE),
    "partition.max_retries": (0, 10_000),
    "model.d_emb": (1, 65_536),
    "model.width": (8, 8192),
    "model.multipliers": (1, 64),
    "model.num_blocks": (1, 64),
    "model.cond_dim": (1, 65_536),
    "model.space_to_depth": (1, 64),
    "diffusion.num_timesteps": (2, 100_000),
    "federation.num_clients": (1, 100_000_000),
    "federation.num_new_clients": (0, 100_000),
    "federation.num_rounds": (1, 10_000_000),
    "federation.tau": (1, 10_000_000),
    "federation.local_epochs": (1, 1_000_000),
    "federation.client_timeout_s": (0, 10_000_000),
    "client.batch_size": (1, 100_000),
    "client.lr": (0, 1000),
    "client.emb_lr": (0, 1000),
    "client.emb_proj_lr_factor": (0, 1000),
    "client.emb_init_std": (0, 1000),
    "client.warmup_rounds": (0, 10_000_000),
    "server.lr": (0, 1000),
    "adapt.epochs": (1, 1_000_000),
    "adapt.lr": (0, 1000),
    "adapt.batch_size": (1, 100_000),
    "eval.num_images": (2, 1_000_000),
    "eval.num_clients": (1, 100_000),
    "eval.kid_num_subsets": (1, 100_000),
    "eval.guidance": (0, 1000),
    "eval.grid_images": (1, 10_000),
    "eval.batch_size": (2, 100_000),
    "resources.num_actors": (1, 100_000),
    "resources.num_cpus": (1e-4, 100_000),  # Ray counts in ten-thousandths
    "resources.num_gpus": (0, 100_000),
}


def check_ranges(config: object, ranges: Ranges) -> None:
    """Raise ConfigError for a setting, or an entry of one, outside its range, or without entries.

    None and texts, such as auto, pass.
    """
    for key, (least, most) in ranges.items():
        value = attrgetter(key)(config)
        if value == ():
            raise ConfigError(f"expected entries of {key}, got none: add one")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int | float) and not least <= one <= most:
                raise ConfigError(f"expected {key} in {least:g}..{most:g}, got {one}: change it")

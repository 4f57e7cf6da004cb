"""SPIRE's own U-Net as the folder of a pipeline, which diffusers loads and which is a backbone."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from spire_core.config.diffusion import DiffusionConfig
from spire_core.pretrained.folder import INDEX, PREDICTIONS, library
from spire_core.pretrained.networks import OWN_UNET

BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # our name: diffusers'
DPM = {"thresholding": True, "sample_max_value": 1.0}  # clips each estimate of the image
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {  # that take the steps of our samplers
    "ddpm": ("DDPMScheduler", {"clip_sample": True}),
    "ddim": ("DPMSolverMultistepScheduler", DPM | {"solver_order": 1}),  # the same as DDIM
    "dpmpp": ("DPMSolverMultistepScheduler", DPM | {"solver_order": 2}),
}
UNET_CODE, PIPELINE_CODE = "spire_unet", "spire_pipeline"  # modules of this package


def write_own(
    folder: Path,
    settings: Mapping[str, Any],
    numbers: Mapping[str, Tensor],
    diffusion: DiffusionConfig,
    weights: Sequence[float] | None = None,
) -> None:
    """Write a U-Net's `settings` and `numbers`, the arguments and weights of a `SpireUNet`.

    Where a `UNet2DModel` computes the same, the folder holds one, and the index of a DDPMPipeline:
    diffusers then loads it without running code. Else it holds a `SpireUNet` and its code. With
    several embeddings, the network's classes, the pipeline draws them by `weights`.
    ConfigError without the package diffusers.
    """
    diffusers = library()
    from spire_core.pretrained.spire_unet import SpireUNet, plain  # lazy: needs diffusers

    num_embs = None if weights is None else len(weights)
    network = SpireUNet(**settings, num_class_embeds=num_embs)
    network.unet.load_state_dict(dict(numbers))
    own = plain(network)
    (network if own is None else own).save_pretrained(folder / "unet")
    name, more = SCHEDULERS[diffusion.sampler]
    their_name = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=diffusion.num_timesteps,
        beta_schedule=BETAS[diffusion.schedule],
        prediction_type=their_name[diffusion.prediction],
        **more,
    )
    scheduler.save_pretrained(folder / "scheduler")
    has_code = own is None or weights is not None
    index = {
        "_class_name": [PIPELINE_CODE, "SpirePipeline"] if has_code else "DDPMPipeline",
        "_diffusers_version": diffusers.__version__,
        "unet": [UNET_CODE, OWN_UNET] if own is None else ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", name],
        "num_inference_steps": diffusion.sample_steps,
    } | ({} if weights is None else {"weights": list(weights)})
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    copy_code(folder, has_own_unet=own is None)


def copy_code(folder: Path, has_own_unet: bool) -> None:
    """Copy the code that diffusers runs in a folder: the pipeline's, and the network's if asked."""
    code = Path(__file__).parent
    shutil.copy(code / f"{PIPELINE_CODE}.py", folder)
    if has_own_unet:
        shutil.copy(code / f"{UNET_CODE}.py", folder / "unet")

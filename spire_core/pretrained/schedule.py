"""The noise schedule and the prediction type of a pre-trained model, by its own scheduler."""

from dataclasses import dataclass

from torch import Tensor

from spire_core.errors import ConfigError
from spire_core.pretrained.folder import BackboneFolder, read_settings
from spire_core.pretrained.loading import library

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}  # diffusers' name: ours
LEAST = 2.0**-24  # of alpha_bar, as diffusers takes it where a schedule ends in pure noise
MOST = 1 - LEAST  # the float32 below 1: at 1 there would be no noise to divide by


@dataclass(frozen=True, eq=False)
class PretrainedSchedule:
    """`alpha_bar` (T,) float32, and the prediction as `diffusion.prediction` names it."""

    alpha_bar: Tensor
    prediction: str


def load_schedule(folder: BackboneFolder) -> PretrainedSchedule:
    """Return a folder's schedule, as its own scheduler computes it from its settings.

    ConfigError for a scheduler of another process than DDPM's, another prediction type, or betas
    that are no noise.
    """
    path = folder.path / "scheduler" / "scheduler_config.json"
    settings = read_settings(path)
    kind = str(settings.get("prediction_type", "epsilon"))  # files of older versions name none
    name = settings.get("_class_name")
    if kind not in PREDICTIONS:
        raise ConfigError(
            f"expected prediction_type as {', '.join(PREDICTIONS)} in {path}, got {kind!r}: "
            "choose a model of discrete DDPM timesteps"
        )
    diffusers = library()
    scheduler_class = getattr(diffusers, str(name), None)
    is_scheduler = isinstance(scheduler_class, type) and issubclass(
        scheduler_class, diffusers.SchedulerMixin
    )
    alpha_bar = None
    if is_scheduler and scheduler_class is not None:
        try:
            scheduler = scheduler_class.from_pretrained(path.parent, local_files_only=True)
            alpha_bar = getattr(scheduler, "alphas_cumprod", None)
        except MemoryError:
            raise
        except Exception:  # diffusers reads settings unchecked, and fails in many ways
            name = f"{name} with settings that it refuses"
    if not isinstance(alpha_bar, Tensor) or alpha_bar.ndim != 1 or len(alpha_bar) < 2:
        raise ConfigError(
            f"expected a scheduler with alphas_cumprod in {path}, got {name!r}: choose a model "
            "of discrete DDPM timesteps, or save it with a DDPMScheduler of its own betas"
        )
    alpha_bar = alpha_bar.float()
    is_share = bool(((alpha_bar >= 0) & (alpha_bar <= 1)).all())  # NaN is none
    if not (is_share and bool((alpha_bar.diff() <= 0).all())):
        got = "some that rise" if is_share else "others"
        raise ConfigError(
            f"expected alphas_cumprod in [0, 1] that never rise of the betas in {path}, got {got}: "
            "choose another model.backbone, or save it with betas in [0, 1]"
        )
    return PretrainedSchedule(alpha_bar.clamp(LEAST, MOST), PREDICTIONS[kind])

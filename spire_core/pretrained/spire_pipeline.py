"""SPIRE's way through the timesteps as a pipeline of the library diffusers.

Exported folders hold a copy of this file, which imports torch and diffusers alone. With one
`torch.Generator` as `generator` it draws the noise that SPIRE draws from it. Of a client with
several embeddings, it draws one for each image by their weights, after the first noise.
"""

from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

START = 0.985  # of the range of timesteps, where sampling begins
POWER = 1.5  # of the grid: above 1, steps are denser where little noise is left


def timestep_grid(num_timesteps: int, num_steps: int) -> list[int]:
    """Return different timesteps, descending; the k-th smallest is near (k / N) ** POWER."""
    count = max(round(START * (num_timesteps - 1)) + 1, num_steps)
    ascending = [round(count * (k / num_steps) ** POWER) - 1 for k in range(1, num_steps + 1)]
    for k in range(num_steps):
        ascending[k] = max(ascending[k], ascending[k - 1] + 1 if k else 0)
    return ascending[::-1]


class SpirePipeline(DiffusionPipeline):
    """Draws images as a client: `num_inference_steps` on a grid of their own."""

    model_cpu_offload_seq = "unet"
    unet: Any
    scheduler: Any

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        num_inference_steps: int = 12,
        weights: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(num_inference_steps=num_inference_steps, weights=weights)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Return `batch_size` images: PIL's, or numbers in [0, 1] as "np" or "pt" say."""
        settings, device = self.unet.config, self._execution_device
        steps = num_inference_steps or self.config["num_inference_steps"]
        num_timesteps = self.scheduler.config["num_train_timesteps"]
        grid = timestep_grid(num_timesteps, steps)
        self.scheduler.set_timesteps(timesteps=grid, device=device)
        shape = (batch_size, settings.in_channels, settings.sample_size, settings.sample_size)
        x = randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)
        embs = None if self.config["weights"] is None else self._drawn(batch_size, generator)
        for t in self.progress_bar(self.scheduler.timesteps):  # type: ignore
            output = self.unet(x, t, embs).sample
            x = self.scheduler.step(output, t, x, generator=generator).prev_sample
        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _drawn(
        self, batch_size: int, generator: torch.Generator | list[torch.Generator] | None
    ) -> torch.Tensor:
        """Return the number of each image's embedding (batch_size,), drawn by the weights."""
        streams = generator if isinstance(generator, list) else [generator]
        num = batch_size // len(streams)
        found = []
        for one in streams:
            weights = torch.tensor(self.config["weights"], device=one and one.device)
            found.append(torch.multinomial(weights, num, replacement=True, generator=one))
        return torch.cat(found).to(self._execution_device)

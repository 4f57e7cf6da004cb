"""The verbs `spire adapt`, `spire sample` and `spire export`: clients of a finished run."""

from click import FloatRange, IntRange, argument, option
from click import Path as File

import spire
from pipeline.cli.command import Answer, png_path, verb
from pipeline.cli.words import Words, offered, runs
from pipeline.files.paths import lasting
from pipeline.runs.layout import SAMPLES
from spire_core.config.eval import MAX_DRAWN, MAX_GUIDANCE

NUM_IMAGES, NUM_PER_PROMPT, MAX_COLUMNS = 64, 8, 32

of_run = argument("run", shell_complete=offered(runs))
with_settings = argument("words", nargs=-1, metavar="[KEY=VALUE]...")
client_id = IntRange(0, 10**9)
of_client = option("--client", type=client_id, help="Whose (the population's unless given).")
scale = FloatRange(0, MAX_GUIDANCE)


@verb()
@of_run
@with_settings
@option("--data", required=True, help="A data set (its test split), or a folder of images.")
@option("--classes", default="", help="Only these classes, by name, such as 3,7.")
@option("--client", type=client_id, help="An id that is free (the next one unless given).")
@option("--num-images", type=IntRange(1), help="How many images it learns from.")
@option("--epsilon", type=float, help="Privacy budget of its images, such as 4 (docs/privacy.md).")
def adapt(
    run: str,
    words: Words,
    data: str,
    classes: str,
    client: int | None,
    num_images: int | None,
    epsilon: float | None,
) -> Answer:
    """Fit a client that arrives after a run has ended, and save its own part with the run.

    RUN is a run's id, name or folder, or last. Settings are those of adapt.*, privacy.adapt.*,
    privacy.noise_key, tracking.* and data.root.
    """
    from pipeline.cli.result_text import arrival_json, arrival_text

    settings = [*words]
    settings += [] if num_images is None else [f"adapt.num_images={num_images}"]
    settings += [] if epsilon is None else [f"privacy.adapt.epsilon={epsilon}"]
    saved = spire.load(run, [word for word in words if word.startswith("tracking.")])
    wanted = [name.strip() for name in classes.split(",") if name.strip()]
    arrival = spire.adapt(saved, data, settings, classes=wanted, client_id=client)
    return Answer(arrival_text(arrival), arrival_json(arrival))


@verb()
@of_run
@with_settings
@of_client
@option("--num", type=IntRange(1, MAX_DRAWN), help="Images (64), or images of each prompt (8).")
@option("--prompt", "prompts", multiple=True, help="What a row of images shows.")
@option("--seed", type=int, default=0, help="Of the noise (0).")
@option("--guidance", type=scale, help="How far from the population (1: not at all).")
@option("--text-guidance", type=scale, help="How strongly a prompt counts (1: as it is).")
@option("--out", type=File(dir_okay=False), help="The PNG; a .npz is written beside it.")
def sample(
    run: str,
    words: Words,
    client: int | None,
    num: int | None,
    prompts: tuple[str, ...],
    seed: int,
    guidance: float | None,
    text_guidance: float | None,
    out: str | None,
) -> Answer:
    """Draw images as a client of a finished run, or as its population.

    RUN is a run's id, name or folder, or last. Settings are those of tracking.*. New clients have
    the ids after the others.
    """
    import numpy as np
    from PIL import Image

    from pipeline.figures.image_grids import image_grid

    saved = spire.load(run, words)
    who = "population" if client is None else f"client_{client}"
    used = saved.scales(client, guidance, next(iter(prompts), None), text_guidance)
    png = png_path(out or saved.folder.parent / SAMPLES / f"{who}_seed{seed}.png")
    num = num or (NUM_PER_PROMPT if prompts else NUM_IMAGES)
    scales = {"guidance": guidance, "text_guidance": text_guidance}
    drawn = [
        spire.draw(saved, client, num, prompt=prompt, seed=seed, **scales)
        for prompt in prompts or (None,)
    ]
    images, npz = np.concatenate(drawn), png.with_suffix(".npz")
    np.savez_compressed(npz, images=images)
    Image.fromarray(image_grid(images, num if prompts and num <= MAX_COLUMNS else 8)).save(png)
    values = {"client_id": client, "num_images": len(images), "seed": seed, "guidance": used[0]}
    values["artifacts"] = {"png": str(png), "npz": str(npz)}
    if prompts:
        values |= {"prompts": [*prompts], "text_guidance": used[1]}
    rows = f", a row for each of {len(prompts)} prompts" if len(prompts) > 1 else ""
    return Answer(f"{len(images)} images{rows}: {png} and {npz}", values)


@verb()
@of_run
@with_settings
@of_client
@option("--diffusers", required=True, metavar="FOLDER", help="A new folder (docs/retrofit.md).")
def export(run: str, words: Words, client: int | None, diffusers: str) -> Answer:
    """Write a client of a finished run as a folder that diffusers loads.

    RUN is a run's id, name or folder, or last. Settings are those of tracking.*.
    """
    from pipeline.inference.pipeline_folder import write_pipeline

    folder = lasting(diffusers, "--diffusers")
    write_pipeline(spire.load(run, words), client, folder)
    who = "the population" if client is None else f"client {client}"
    values = {"client_id": client, "artifacts": {"diffusers": str(folder)}}
    return Answer(f"{who} as a pipeline of diffusers: {folder}", values)

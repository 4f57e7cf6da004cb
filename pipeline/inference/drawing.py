"""What may be asked of a client's drawings, by the command and in Python."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pipeline.inference.saved_run import SavedRun
from spire_core.config.checks import Range, check_fields, require
from spire_core.config.eval import MAX_DRAWN, MAX_GUIDANCE

MAX_CLIENT_ID = 10**9
Scale = Annotated[float | None, Range(0, MAX_GUIDANCE)]


@dataclass(frozen=True)
class Joining:
    """The id of a client that joins; None is the next free one."""

    client_id: Annotated[int | None, Range(0, MAX_CLIENT_ID)] = None

    def __post_init__(self) -> None:
        check_fields(self, "")


@dataclass(frozen=True)
class Drawing:
    """Who draws how many images of which subject; `spire.draw` says what None stands for."""

    client_id: Annotated[int | None, Range(0, MAX_CLIENT_ID)] = None
    num_images: Annotated[int, Range(1, MAX_DRAWN)] = 64
    prompt: str | None = None
    guidance: Scale = None
    text_guidance: Scale = None

    def __post_init__(self) -> None:
        check_fields(self, "")


def check_scales(
    run: SavedRun, drawing: Drawing, named: Callable[[str], str] = lambda name: name
) -> None:
    """Raise ConfigError for a scale of guidance that would have no effect; 1 is meant to have none.

    `named` returns what messages call an argument, such as an option of the command.
    """
    client, prompt, scale, text_scale = map(
        named, ("client_id", "prompt", "guidance", "text_guidance")
    )
    if drawing.text_guidance not in (None, 1.0):
        run.check_text(text_scale)
        advice = "images without a prompt have no text to be guided by"
        require(drawing.prompt is not None, f"a {prompt} with {text_scale}", "none", advice)
        run.check_text_guidance(drawing.text_guidance, text_scale)
    is_met = drawing.guidance in (None, 1.0) or drawing.client_id is not None
    advice = "it pulls images towards a client, away from the population"
    require(is_met, f"a {client} with {scale}", "none", advice)
    config = run.config
    has_reference = config.method.record.has_embedding or config.has_backbone
    is_met = drawing.guidance in (None, 1.0) or has_reference
    advice = "it leads away from what was drawn before adaptation, so leave it out"
    require(is_met, f"a run with pre-training with {scale}", config.method.name, advice)


def scales(run: SavedRun, drawing: Drawing) -> tuple[float, float]:
    """Return the scales of guidance and of text guidance that are drawn with.

    What is not given is the client's own, or the run's.
    """
    guidance, text_guidance = drawing.guidance, drawing.text_guidance
    return (
        run.guidance(drawing.client_id) if guidance is None else guidance,
        run.config.text_guidance if text_guidance is None else text_guidance,
    )

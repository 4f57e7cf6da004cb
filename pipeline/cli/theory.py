"""The verb `spire theory`: runs theory experiments and shows their outcomes."""

from typing import TYPE_CHECKING, Any

from click import argument, option

from pipeline.cli.command import Answer, verb
from pipeline.cli.words import Words, split_one
from pipeline.config.load import write_yaml
from pipeline.config.tracking import ui_command, ui_text
from pipeline.files.paths import lasting

if TYPE_CHECKING:
    from pipeline.theory.run import TheoryResult


@verb()
@argument("words", nargs=-1, required=True, metavar="NAME [KEY=VALUE]...")
@option("--dry-run", is_flag=True, help="Print the settings and stop.")
@option("--out", metavar="DIR", help="Where figures go (the run's folder).")
def theory(words: Words, dry_run: bool, out: str | None) -> Answer:
    """Run the Gaussian-mixture experiments of docs/theory.md.

    NAME is all, theorem, scaling, failure, optimiser, components, backbone, bridge, landscape or
    readout.
    """
    from pipeline.theory.config import load_theory

    name, settings = split_one(words, "name")
    config = load_theory(name or "none", settings)
    shown = {**config.as_dict(), "experiments": list(config.experiments)}
    if dry_run:
        return Answer(write_yaml(shown, sort_keys=False), {"config": shown})
    from pipeline.theory.run import run_theory

    result = run_theory(config, str(name), lasting(out, "--out") if out else None)
    times = ", ".join(f"{name} {s:.1f}" for name, s in result.cpu_s.items())
    ends = [f"figure   {path}" for path in result.figures.values()]
    ends += [f"compare  {ui_text(config.tracking)}"] if config.tracking.enabled else []
    parts = [*map(str, result.outcomes.values()), f"CPU seconds: {times}", "\n".join(ends)]
    values = {
        "config": shown,
        "ui_command": ui_command(config.tracking) if config.tracking.enabled else None,
        "run_id": result.run_id,
        "experiments": [_experiment(result, name) for name in result.outcomes],
    }
    claims = [claim for outcome in result.outcomes.values() for claim in outcome.claims]
    has_failed = any(claim.is_met is False for claim in claims)  # None: an observation
    return Answer("\n\n".join(parts), values, exit_code=int(has_failed))


def _experiment(result: "TheoryResult", name: str) -> dict[str, Any]:
    outcome = result.outcomes[name]
    return {
        "name": name,
        "title": outcome.title,
        "cpu_s": result.cpu_s[name],
        "numbers": {**outcome.numbers},
        "claims": [{"text": c.text, "is_met": c.is_met} for c in outcome.claims],
        "tables": {title: frame.to_dict("list") for title, frame in outcome.tables.items()},
        "figure": str(result.figures[name]),
    }

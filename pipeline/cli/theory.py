"""The verb `spire theory`: runs theory experiments and shows their outcomes."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.command import Answer, add_verb
from pipeline.cli.words import split_one

if TYPE_CHECKING:
    from pipeline.theory.run import TheoryResult


def add_theory(verbs: Any) -> None:
    """Add the verb `theory`."""
    text = "run the Gaussian-mixture experiments of docs/theory.md"
    parser = add_verb(verbs, "theory", theory, text)
    text = (
        "all, theorem, scaling, failure, optimiser, components, backbone, bridge, landscape or "
        "readout; and settings"
    )
    parser.add_argument("words", nargs="+", metavar="NAME | key=value", help=text)
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    parser.add_argument("--out", metavar="DIR", help="where figures go (the run's folder)")


def theory(args: argparse.Namespace) -> Answer:
    """Run named theory experiments, or with `--dry-run` show their settings."""
    from pipeline.config.load import write_yaml
    from pipeline.config.tracking import ui_command, ui_text
    from pipeline.files.paths import lasting
    from pipeline.theory.config import load_theory

    name, words = split_one(args.words, "name")
    config = load_theory(name or "none", words)
    settings = {**config.as_dict(), "experiments": list(config.experiments)}
    if args.dry_run:
        return Answer(write_yaml(settings, sort_keys=False), {"config": settings})
    from pipeline.theory.run import run_theory

    result = run_theory(config, str(name), lasting(args.out, "--out") if args.out else None)
    times = ", ".join(f"{name} {s:.1f}" for name, s in result.cpu_s.items())
    ends = [f"figure   {path}" for path in result.figures.values()]
    ui = ui_command(config.tracking) if config.tracking.enabled else None
    ends += [f"compare  {ui_text(config.tracking)}"] if ui else []
    parts = [*map(str, result.outcomes.values()), f"CPU seconds: {times}", "\n".join(ends)]
    claims = [claim for outcome in result.outcomes.values() for claim in outcome.claims]
    has_failed = any(claim.is_met is False for claim in claims)  # None: an observation
    values = {"config": settings, "ui_command": ui, **_values(result)}
    return Answer("\n\n".join(parts), values, exit_code=int(has_failed))


def _values(result: "TheoryResult") -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    experiments = [
        {
            "name": name,
            "title": outcome.title,
            "cpu_s": result.cpu_s[name],
            "numbers": {key: plain(value) for key, value in outcome.numbers.items()},
            "claims": [{"text": c.text, "is_met": c.is_met} for c in outcome.claims],
            "tables": {
                title: {key: [*map(plain, column)] for key, column in frame.to_dict("list").items()}
                for title, frame in outcome.tables.items()
            },
            "figure": str(Path(result.figures[name])),
        }
        for name, outcome in result.outcomes.items()
    ]
    return {"run_id": result.run_id, "experiments": experiments}

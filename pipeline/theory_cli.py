"""The verb `spire theory`: reads what was typed, and says what the experiments found."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cli import Answer
    from pipeline.theory import TheoryResult
    from pipeline.theory_outcome import Outcome

HELP = "run the Gaussian-mixture experiments of docs/theory.md"


def add_theory(verbs: Any) -> None:
    """Add the verb to the parser's verbs."""
    parser = verbs.add_parser("theory", help=HELP, description=f"{HELP[0].upper()}{HELP[1:]}.")
    parser.set_defaults(act=theory)
    text = "a YAML file, or theorem, optimiser, components, backbone, bridge or all; and settings"
    parser.add_argument("words", nargs="+", metavar="FILE_OR_NAME | key=value", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    parser.add_argument("--out", metavar="DIR", help="where the figures go (the run's folder)")


def theory(args: argparse.Namespace) -> "Answer":
    """Run a preset or a file of theory experiments, or with `--dry-run` say what it would be."""
    from pipeline.cli import Answer
    from pipeline.theory_config import load_theory
    from spire_core.errors import ConfigError

    names = [word for word in args.words if "=" not in word]
    if len(names) != 1:
        raise ConfigError(
            f"expected one file or name and key=value settings, got {len(names)} names: such as "
            "theorem replicates=100"
        )
    config = load_theory(names[0], [word for word in args.words if "=" in word])
    settings = json.loads(json.dumps(config.as_dict()))
    if args.dry_run:
        import yaml

        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
        return Answer(text.strip(), {"config": settings})
    from pipeline.runs import ui_command
    from pipeline.theory import run_theory

    result = run_theory(config, Path(names[0]).stem, _folder(args.out))
    ui = ui_command(config.tracking) if config.tracking.enabled else None
    parts = [_text(o, s) for o, s in zip(result.outcomes, result.cpu_s, strict=True)]
    where = "\n".join(f"figure   {path}" for path in result.figures)
    parts.append(where + (f"\ncompare  {ui}" if ui else ""))
    return Answer("\n\n".join(parts), _values(result, settings) | {"ui_command": ui})


def _folder(out: str | None) -> Path | None:
    from spire_core.errors import ConfigError

    if out is None:
        return None
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"expected a folder that can be written, got {folder} ({error.strerror}): name another"
        ) from error
    return folder


def _text(outcome: "Outcome", cpu_s: float) -> str:
    from pipeline.report_text import aligned

    parts = [f"{outcome.title} ({cpu_s:.1f} CPU s)"]
    for name, columns in outcome.tables.items():
        rows = [[_cell(value) for value in row] for row in zip(*columns.values(), strict=True)]
        parts.append(f"{name}\n{aligned(list(columns), rows)}")
    marks = [f"{'ok  ' if claim.is_met else 'FAIL'} {claim.text}" for claim in outcome.claims]
    return "\n\n".join([*parts, "\n".join(marks)])


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if not math.isfinite(value) else f"{value:.4g}"


def _values(result: "TheoryResult", settings: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    experiments = [
        {
            "name": outcome.name,
            "title": outcome.title,
            "cpu_s": cpu_s,
            "numbers": {key: plain(value) for key, value in outcome.numbers.items()},
            "claims": [{"text": c.text, "is_met": c.is_met} for c in outcome.claims],
            "tables": {
                name: {key: [plain(v) for v in column] for key, column in columns.items()}
                for name, columns in outcome.tables.items()
            },
            "figure": str(path),
        }
        for outcome, cpu_s, path in zip(result.outcomes, result.cpu_s, result.figures, strict=True)
    ]
    return {"run_id": result.run_id, "config": settings, "experiments": experiments}

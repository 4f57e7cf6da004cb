"""The verb `spire theory`: runs theory experiments and shows their outcomes."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.command import Answer, add_verb
from pipeline.cli.words import split_one

if TYPE_CHECKING:
    from pipeline.theory.outcome import Outcome
    from pipeline.theory.run import TheoryResult


def add_theory(verbs: Any) -> None:
    """Add the verb `theory`."""
    text = "run the Gaussian-mixture experiments of docs/theory.md"
    parser = add_verb(verbs, "theory", theory, text)
    text = (
        "a YAML file, or theorem, optimiser, components, backbone, bridge, landscape, readout or "
        "all; and settings"
    )
    parser.add_argument("words", nargs="+", metavar="FILE_OR_NAME | key=value", help=text)
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    parser.add_argument("--out", metavar="DIR", help="where figures and text go (the run's folder)")


def theory(args: argparse.Namespace) -> Answer:
    """Run a preset or a file of theory experiments, or with `--dry-run` show its settings."""
    from pipeline.theory.config import load_theory
    from spire_core.errors import ConfigError

    name, overrides = split_one(args.words, "file or name")
    if name is None:
        raise ConfigError(
            f"expected one file or name, got {' '.join(overrides)} alone: such as theorem "
            "replicates=100"
        )
    config = load_theory(name, overrides)
    settings = json.loads(json.dumps(config.as_dict()))
    from pipeline.theory.run import check_theory, run_theory

    if args.dry_run:
        import yaml

        check_theory(config)
        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
        return Answer(text.strip(), {"config": settings})
    from pipeline.config.tracking import ui_command, ui_text

    folder = _folder(args.out)
    result = run_theory(config, Path(name).stem, folder)
    ui = ui_command(config.tracking) if config.tracking.enabled else None
    parts = [_text(outcome) for outcome in result.outcomes]
    if folder is not None:
        (folder / "results.txt").write_text("\n\n".join(parts) + "\n")
    times = zip(config.experiments, result.cpu_s, strict=True)
    parts.append("CPU seconds: " + ", ".join(f"{name} {s:.1f}" for name, s in times))
    where = "\n".join(f"figure   {path}" for path in result.figures)
    parts.append(where + (f"\ncompare  {ui_text(config.tracking)}" if ui else ""))
    claims = [claim for outcome in result.outcomes for claim in outcome.claims]
    values = _values(result, settings) | {"ui_command": ui}
    has_failed = any(claim.is_met is False for claim in claims)  # None: an observation
    return Answer("\n\n".join(parts), values, exit_code=int(has_failed))


def _folder(out: str | None) -> Path | None:
    from pipeline.files.paths import lasting
    from spire_core.errors import ConfigError

    if out is None:
        return None
    folder = lasting(out, "--out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"expected a folder that can be written, got {folder} ({error.strerror}): name another"
        ) from error
    return folder


def _text(outcome: "Outcome") -> str:
    parts = [outcome.title]
    parts += [f"{name}\n{_table(columns)}" for name, columns in outcome.tables.items()]
    return "\n\n".join([*parts, "\n".join(map(str, outcome.claims))])


def _table(columns: Mapping[str, Sequence[Any]]) -> str:
    """Return columns with their errors beside the values; a wide table is transposed."""
    from pipeline.cli.tables import aligned

    shown: dict[str, list[str]] = {}
    for name, values in columns.items():
        cells = [_cell(value) for value in values]
        if (owner := name.removesuffix(" +-")) != name:
            pairs = zip(shown[owner], cells, strict=True)
            shown[owner] = [a if a == "-" else f"{a} +-{b}" for a, b in pairs]
        else:
            shown[name] = cells
    rows = list(zip(*shown.values(), strict=True))
    if len(shown) > 8:
        header, *rest = ([name, *cells] for name, cells in shown.items())
        return aligned(header, rest)
    return aligned(list(shown), rows)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if not math.isfinite(value) else f"{value:.3g}"


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

"""What a tab offers after a part of a command, as bash asks for it."""

import json
from pathlib import Path

import pytest

from sweeps.cli import main


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("spire run mnist", {"mnist", "mnist-cpu"}, {"smoke"}),
        ("spire sweep compare adapt.ep", {"adapt.epochs="}, {"compare"}),
        ("spire sample ", {"last", "the-one", "0123"}, {"mnist"}),
    ],
)
def test_a_tab_offers_what_can_follow(
    tmp_path: Path, line: str, some: set[str], none: set[str], monkeypatch, capsys
) -> None:
    (tmp_path / "runs" / "0123").mkdir(parents=True)
    record = {"run_id": "0123", "run_name": "the-one", "started_ms": 1, "kind": "run"}
    (tmp_path / "runs" / "0123" / "run.json").write_text(json.dumps(record))
    for name, value in {
        "_SPIRE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": f"{len(line.split(' ')) - 1}",
        "SPIRE_ROOT": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main([])
    offered = {word.partition(",")[2] for word in capsys.readouterr().out.split()}
    assert some <= offered
    assert not none & offered

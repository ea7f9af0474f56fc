"""The README's Python runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from jaxtl import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_trains_and_is_twenty_lines_or_fewer(capsys):
  code = next(
    block for block in re.findall(r"```python\n(.*?)```", README, re.S) if block.startswith("import")
  )
  assert len([line for line in code.splitlines() if line.strip()]) <= 20
  exec(compile(code.replace("range(100)", "range(3)"), "README.md", "exec"), {})
  loss, accuracy = map(float, capsys.readouterr().out.split())
  assert loss > 0
  assert 0 <= accuracy <= 1


def test_every_config_that_is_named_exists():
  for path in re.findall(r"configs/[\w/]+\.py", README):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("docs/running.md", 3)])
def test_every_launch_renders_as_it_stands(monkeypatch, capsys, page, count):
  monkeypatch.chdir(ROOT)
  text = (ROOT / page).read_text(encoding="utf-8")
  commands = re.findall(r"^jaxtl launch (?:.*\\\n)*.*$", text, re.M)
  assert len(commands) == count
  for command in commands:
    arguments = shlex.split(command.replace("\\\n", " "))[1:]
    assert cli.main([a for a in arguments if a != "--yes"]) == 0
    assert "==> commands" in capsys.readouterr().out

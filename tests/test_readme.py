"""The README's Python runs as it stands."""

import re
import shlex
from pathlib import Path

from jaxtl import cli

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


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
    assert (Path(__file__).resolve().parents[1] / path).is_file()


def test_every_launch_renders_as_it_stands(monkeypatch, capsys):
  monkeypatch.chdir(Path(__file__).resolve().parents[1])
  commands = re.findall(r"^jaxtl launch (?:.*\\\n)*.*$", README, re.M)
  assert len(commands) == 3
  for command in commands:
    arguments = shlex.split(command.replace("\\\n", " "))[1:]
    assert cli.main([a for a in arguments if a != "--yes"]) == 0
    assert "==> commands" in capsys.readouterr().out

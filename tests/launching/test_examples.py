"""launch/ is what the commands in its README render, byte by byte."""

import re
import shlex
from pathlib import Path

import pytest

from jaxtl import cli

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
README = (LAUNCH / "README.md").read_text(encoding="utf-8")
COMMANDS = [
  shlex.split(text.replace("\\\n", " "))[1:]
  for text in re.findall(r"^jaxtl launch (?:.*\\\n)*.*$", README.partition("## Examples")[2], re.M)
]


def files_of(folder: Path) -> dict[str, str]:
  return {
    str(path.relative_to(folder)): path.read_text(encoding="utf-8")
    for path in folder.rglob("*")
    if path.is_file() and path.name != "README.md" and "docker" not in path.parts
  }


def test_every_example_is_what_its_command_renders(tmp_path, monkeypatch, update_golden, capsys):
  monkeypatch.chdir(ROOT)
  for arguments in COMMANDS:
    folder = arguments[-1]
    assert arguments[-2] == "--write"
    assert cli.main([*arguments[:-1], str(tmp_path / folder)]) == 0
    assert "nothing has been submitted; add --yes" in capsys.readouterr().err
  found = files_of(tmp_path / "launch")
  if update_golden:
    for name, text in found.items():
      (LAUNCH / name).parent.mkdir(parents=True, exist_ok=True)
      (LAUNCH / name).write_text(text, encoding="utf-8")
  assert files_of(LAUNCH) == found


def test_every_target_has_an_example():
  from jaxtl.launching import TARGETS

  assert [command[1] for command in COMMANDS] == list(TARGETS)
  for target in TARGETS:
    assert f"`{target}`" in README


@pytest.mark.parametrize("kind", ["cpu", "cuda", "tpu"])
def test_containers_are_pinned_and_run_as_nobody_special(kind):
  lines = (LAUNCH / "docker" / f"Dockerfile.{kind}").read_text(encoding="utf-8").splitlines()
  words = [line.split()[0] for line in lines if line and line[0].isupper()]
  assert words == ["FROM", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"]
  text = "\n".join(lines)
  assert 'ENTRYPOINT ["jaxtl"]' in text
  assert "--constraint constraints.txt" in text
  assert "--uid 1000" in text  # whom the manifests name
  assert (f'".[{kind}]"' in text) == (kind != "cpu")
  if kind != "cpu":
    assert re.search(rf"^{kind} = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)

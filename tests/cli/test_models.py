"""`jaxtl models`: which rows it prints, and that it answers without JAX."""

import json
import subprocess
import sys

import pytest

from jaxtl import cli
from jaxtl.cli import models
from tests.pretrained.made_weights import refused

ROWS = models.read_catalogue()


def names(pattern):
  return [row["name"] for row in models.matching(ROWS, pattern)]


def test_a_pattern_is_a_part_of_a_name_or_a_shell_pattern():
  assert names("resnet1*") == ["resnet18", "resnet101", "resnet110", "resnet152"]
  assert names("B16") == ["clip_vit_b16", "vit_b16"]
  assert names("vit_[bs]16") == ["vit_b16", "vit_s16"]
  assert names(None) == [row["name"] for row in ROWS]
  assert names("unknown") == []


def test_the_table_has_a_line_per_model(capsys):
  assert cli.main(["models", "densenet*"]) == 0
  header, *lines = capsys.readouterr().out.splitlines()
  assert header.split() == ["model", "parameters", "MACs", "input", "blocks", "layouts"]
  assert [line.split()[0] for line in lines] == names("densenet*")
  assert "7.98 M" in lines[0]
  assert "2.83 G" in lines[0]
  assert "224 px" in lines[0]


def test_json_has_the_rows_and_never_replaces_a_file(tmp_path, capsys):
  file = tmp_path / "rows.json"
  assert cli.main(["models", "resnet20", "--json", str(file)]) == 0
  (row,) = json.loads(file.read_text())
  assert row["blocks"][0] == "stem"
  assert row["blocks"][-1] == "head"
  before = file.read_bytes()
  assert "exists already" in refused(capsys, "models", "--json", file)
  assert file.read_bytes() == before


def test_a_pattern_without_match_is_one_line(capsys):
  assert "no architecture matches 'resnext'" in refused(capsys, "models", "resnext")


@pytest.mark.parametrize("arguments", [["models", "vit"]])
def test_it_imports_no_jax(arguments):
  code = f"import sys; from jaxtl import cli; cli.main({arguments!r}); sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

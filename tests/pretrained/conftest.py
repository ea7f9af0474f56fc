"""A vision transformer as a file of timm's, and the command that imports it."""

import json

import pytest

from jaxtl import cli
from tests.pretrained.made_weights import CLASSES, VIT_KEYWORDS, save, small_vit


@pytest.fixture
def vit():
  """For images of 16 pixels: a grid of 2 x 2."""
  return small_vit("timm")


@pytest.fixture
def out(tmp_path):
  """A folder that does not exist, in one that holds nothing else."""
  (tmp_path / "outs").mkdir()
  return tmp_path / "outs" / "out"


@pytest.fixture
def class_list(tmp_path):
  (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
  return tmp_path / "classes.json"


@pytest.fixture
def vit_command(tmp_path, vit, out, class_list):
  """(options, tensors) -> the arguments that import them as vit_ti16, with --classes and --out."""

  def command(*options, tensors=None, keywords=VIT_KEYWORDS, classes=True):
    path = save(tmp_path / "weights.safetensors", vit.theirs if tensors is None else tensors)
    named = ["--classes", class_list] if classes else []
    arguments = ["import", path, "--as", "vit_ti16", "--layout", "timm", "--out", out]
    return [str(a) for a in (*arguments, *named, *keywords, "--num-devices", 1, *options)]

  return command


@pytest.fixture
def imported(vit_command, out, capsys):
  """As `vit_command`, done: (checkpoint, what was printed)."""

  def run(*options, **rest):
    from jaxtl.checkpoints import checkpoint

    assert cli.main(vit_command(*options, **rest)) == 0, capsys.readouterr().err
    return checkpoint.load(out), capsys.readouterr().out

  return run

"""Every starting config passes the check, and chains of them run; bad input writes nothing."""

import re
from pathlib import Path

import pytest

from jaxtl import cli
from jaxtl.cli import new
from jaxtl.config import parse
from jaxtl.errors import DataError
from jaxtl.runner import config_file
from jaxtl.runner import run as study
from jaxtl.train import Runtime, make_mesh
from tests.pretrained.made_weights import refused

STUDIES = new.studies()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def test_every_study_has_a_template():
  assert STUDIES == ["flatness", "layers", "patching", "pretrain", "selection", "transfer"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_new_config_passes_the_check(name, capsys):
  assert cli.main(["new", name]) == 0
  assert f"wrote {name}.py" in capsys.readouterr().out
  assert "FILE" not in Path(f"{name}.py").read_text()
  assert cli.main(["check", f"{name}.py", "--compile", "none"]) == 0


@pytest.mark.parametrize("name", STUDIES)
def test_it_has_the_data_that_the_command_names(name, image_folder):
  assert cli.main(["new", name, "deep/mine.py", "--data", str(image_folder)]) == 0
  text = Path("deep/mine.py").read_text()
  assert f'DATA = "{image_folder}"' in text
  assert 'TRAIN, TEST = "train", "val"' in text
  config_file.parse_config(config_file.load_config(Path("deep/mine.py")))


@pytest.fixture
def image_folder(tmp_path):
  """A folder of two classes with a training and a validation split."""
  import numpy as np
  from PIL import Image

  for split in ("train", "val"):
    for label in ("ant", "bee"):
      folder = tmp_path / "images" / split / label
      folder.mkdir(parents=True)
      Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "0.png")
  return tmp_path / "images"


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, image_folder):
  assert "no study 'x'; expected one of flatness, layers" in refused(capsys, "new", "x")
  (tmp_path / "transfer.py").write_text("mine")
  assert "exists already" in refused(capsys, "new", "transfer")
  assert (tmp_path / "transfer.py").read_text() == "mine"
  refused(capsys, "new", "pretrain", "--data", "nowhere", code=3)
  line = refused(capsys, "new", "pretrain", "--data", image_folder / "train", code=3)
  assert "expected one to train on and one to test on" in line
  assert "transfer.py is a file" in refused(capsys, "new", "pretrain", "transfer.py/x.py")
  assert not (tmp_path / "pretrain.py").exists()


def test_splits_are_chosen_by_their_kind():
  assert new.choose_splits(["train", "test", "val"], "x") == ("train", "test")
  assert new.choose_splits(["training", "valid"], "x") == ("training", "valid")
  with pytest.raises(DataError, match="has the splits all"):
    new.choose_splits(["all"], "x")


def test_every_template_has_the_lines_that_the_command_replaces():
  for name in STUDIES:
    text = new.template(name)
    assert len(re.findall("^DATA = ", text, flags=re.M)) == 1
    assert len(re.findall("^TRAIN, TEST = ", text, flags=re.M)) == 1


SHRUNK = {
  "pretrain": ["base.epochs=0.04", "base.transfer=None", "base.optimizer.schedule.warmup_epochs=0.0"],
  "transfer": [
    "base.transfer.linear_probe=None",
    "base.transfer.fine_tune.epochs=0.05",
    "base.transfer.fine_tune.head=fresh",
    "base.transfer.fine_tune.optimizer.schedule.warmup_epochs=0.0",
  ],
  "flatness": [
    "base.flatness.num_examples=16",
    "base.flatness.num_iters=2",
    "base.flatness.tolerance=9.0",
    "base.spectrum=None",
    "base.layers=None",
    "base.sharpness=None",
    "base.slice=None",
  ],
}


@pytest.mark.slow
def test_a_pre_training_is_the_start_of_the_others(tmp_path):
  """The default start of one template is where the run of another leaves its weights."""
  for name in SHRUNK:
    assert cli.main(["new", name]) == 0
    config = config_file.load_config(Path(f"{name}.py"), SHRUNK[name])
    arms = list(parse(config, config_file.StudyConfig).arms)
    rows = study.run_study(
      config, workdir=Path("runs", name), runtime=Runtime(make_mesh(1)), arms=arms[:1], seeds=[0]
    )
    assert len(rows) >= 1

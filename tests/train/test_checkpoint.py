import json

import jax
import numpy as np
import pytest

from jaxtl import train
from jaxtl.errors import CheckpointError, ConfigError
from jaxtl.train import checkpoint


@pytest.fixture
def run(tiny, runtime, tmp_path):
  trained = train.run(tiny(epochs=0.5), seed=0, runtime=runtime(8), workdir=tmp_path / "run")
  return tmp_path / "run", trained


def test_the_model_item_loads_without_model_code(run):
  folder, trained = run
  for path in (folder, folder / "checkpoints", folder / "checkpoints" / "3"):
    weights = checkpoint.load(path)
    jax.tree.map(np.testing.assert_array_equal, weights.params, trained.weights.params)
    jax.tree.map(np.testing.assert_array_equal, weights.batch_stats, trained.weights.batch_stats)
  assert weights.classes == ("a", "b", "c")
  assert weights.config["model"] == {"make": ".models.resnet8", "width": 4}
  assert weights.config["image_shape"] == [8, 8, 3]
  assert weights.config["transforms"] == [{"fn": ".data.normalize"}]
  assert weights.config["step"] == 3


def test_a_checkpoint_has_three_items(run):
  names = {p.name for p in (run[0] / "checkpoints" / "3").iterdir() if p.is_dir()}
  assert names == {"model", "optimizer", "config"}


@pytest.mark.parametrize("damage", ["model", "config"])
def test_a_damaged_checkpoint_is_one_line(run, damage):
  for file in (run[0] / "checkpoints" / "3" / damage).rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  with pytest.raises(CheckpointError, match="cannot be read as a checkpoint") as caught:
    checkpoint.load(run[0])
  assert "\n" not in str(caught.value)


def test_no_checkpoint_is_one_line(tmp_path):
  with pytest.raises(CheckpointError, match="there is no such folder"):
    checkpoint.load(tmp_path / "nowhere")
  (tmp_path / "empty").mkdir()
  with pytest.raises(CheckpointError, match="expected a run's folder or a folder of steps"):
    checkpoint.load(tmp_path / "empty")


def test_the_newest_step_is_found_by_number_and_not_by_name(tmp_path):
  for step in (9, 10, 100):
    (tmp_path / "checkpoints" / str(step) / "model").mkdir(parents=True)
  (tmp_path / "checkpoints" / "200").mkdir()  # a save that was cut off
  assert checkpoint.find(tmp_path).name == "100"


def test_the_config_item_is_json(run):
  assert json.dumps(checkpoint.load(run[0]).config)


def test_what_a_checkpoint_names_is_used_only_if_it_is_the_librarys_or_trusted(run):
  weights = checkpoint.load(run[0])
  assert weights.model_spec().path == ".models.resnet8"
  weights.config["model"] = {"make": "tests.train.conftest.squares"}
  with pytest.raises(ConfigError, match="pass --trust"):
    weights.model_spec()
  assert weights.model_spec(trust=True).path == "tests.train.conftest.squares"

"""A whole study in two processes: training, curvature, probe and fine-tuning give what one process gives."""

import pprint

import numpy as np
import pytest

from jaxtl import train
from jaxtl.config import parse
from jaxtl.runner.rows import read_rows
from jaxtl.train import Experiment
from tests.several import start, start_pair
from tests.small_study import study_config
from tests.small_training import runtime, tiny_config

pytestmark = pytest.mark.slow

__all__ = ["runtime", "study_config"]  # fixtures
# Times, and what depends on them.
TIMES = ("seconds", "images_per_second", "data_wait", "session")


def rows_of_one_and_two(config_of_study, arm, tmp_path):
  """The rows of an arm from one process with two devices, and from two with one each."""
  config = tmp_path / "config.py"
  config.write_text(f"def get_config():\n  return {pprint.pformat(config_of_study)}\n")
  one = start(
    *("run", config, "--workdir", tmp_path / "one", "--no-report", "--cpu-devices", 2),
    log=tmp_path / "one.log",
  )
  pair = []
  try:
    assert one.finish(seconds=300) == 0, one.text[-2000:]
    pair = start_pair(config, tmp_path / "two", devices=1)
    assert [process.finish(seconds=300) for process in pair] == [0, 0], pair[0].text[-2000:]
  finally:
    for process in (one, *pair):
      process.kill()
  return [read_rows(tmp_path / name / arm / "0" / "rows.jsonl") for name in ("one", "two")]


def test_two_processes_measure_what_one_does(study_config, tmp_path):
  study_config["arms"] = dict(smoothed_hinge=study_config["arms"]["smoothed_hinge"])
  study_config["base"]["tune"] = None
  rows = rows_of_one_and_two(study_config, "smoothed_hinge", tmp_path)
  assert [row["kind"] for row in rows[0]] == ["pretrain", "transfer", "transfer"]
  for mine, theirs in zip(*rows, strict=True):
    assert mine.keys() == theirs.keys()
    for key in mine.keys() - set(TIMES):
      if isinstance(mine[key], float):
        # The same two parts of every batch, added in another order: six steps make more of the last digits.
        np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-3, atol=1e-5, err_msg=key)
      else:
        assert mine[key] == theirs[key], key
  assert not list(tmp_path.glob("two/**/.*.json*"))


def test_two_processes_find_in_each_layer_what_one_does(runtime, tmp_path):
  trained = tmp_path / "start"
  train.run(parse(tiny_config(epochs=1.0), Experiment), seed=0, runtime=runtime(), workdir=trained)
  data = dict(source=dict(make="tests.small_training.squares"), batch_size=16)
  options = dict(num_examples=40, cross_fit=True, refine_steps=1, cross_check=True)
  base = dict(start=str(trained), diagnosis=dict(data=data, **options))
  config = dict(study=".studies.layers.diagnosis.rows", base=base, arms=dict(a=dict()), seeds=[0])
  one, two = rows_of_one_and_two(config, "a", tmp_path)
  assert len(one) == 5
  for mine, theirs in zip(one, two, strict=True):
    assert mine["num_examples"] == theirs["num_examples"] == 40
    for key in ("mean_loss", "gradient_norm", "delta_loss", "step", "kappa_hvp"):
      np.testing.assert_allclose(
        mine[key], theirs[key], rtol=1e-3, atol=1e-5, err_msg=f"{mine['layer']} {key}"
      )
    assert (mine["perturb"], mine["update"]) == (theirs["perturb"], theirs["update"])

"""Networks of checkpoints that studies start from: the right weights, images, classes and layers."""

import pytest

from jaxtl import train
from jaxtl.config import parse
from jaxtl.errors import ConfigError, DataError, InputError
from jaxtl.report import write as report
from jaxtl.runner import run as study
from jaxtl.train import Experiment
from tests.small_training import tiny_config

SOURCE = dict(make="tests.small_training.squares")


@pytest.fixture
def config(runtime, tmp_path):
  train.run(parse(tiny_config(epochs=1.0), Experiment), seed=0, runtime=runtime(), workdir=tmp_path / "start")
  data = dict(source=SOURCE, batch_size=16)
  base = dict(start=str(tmp_path / "start"), diagnosis=dict(data=data, num_examples=48))
  return dict(study=".studies.layers.diagnosis.rows", base=base, arms=dict(a=dict()), seeds=[0])


def test_a_study_takes_the_checkpoints_own_transforms_and_draws_anew_for_a_seed(runtime, tmp_path, config):
  rows = study.run_study(config | dict(seeds=[0, 1]), workdir=tmp_path / "run", runtime=runtime())
  assert {row["kind"] for row in rows} == {"layer_diagnosis"}
  first, second = ([row for row in rows if row["seed"] == seed] for seed in (0, 1))
  assert first[0]["mean_loss"] != second[0]["mean_loss"]
  assert (first[0]["seed_of_images"], second[0]["seed_of_images"]) == (0, 1)
  assert first[0]["images"] == "squares"
  assert len(first[0]["weights"]) == 16
  config["base"]["diagnosis"]["data"]["transforms"] = [dict(fn=".data.normalize")]
  own = study.run_study(config, workdir=tmp_path / "own", runtime=runtime())
  assert [row["delta_loss"] for row in own] == [row["delta_loss"] for row in first]
  page = report.write(tmp_path / "run", tmp_path / "page").read_text(encoding="utf-8")
  for text in (
    "Room for improvement in each layer",
    "Curvature of each layer",
    "Layers, a",
    "alone can lower the loss",
  ):
    assert text in page
  assert "there are no numbers yet" not in page


def test_a_study_goes_on_with_the_same_weights_only(runtime, tmp_path, config):
  study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  (tmp_path / "run" / "a" / "0" / "rows.jsonl").unlink()
  written = (tmp_path / "run" / "a" / "0" / "layers.json").stat().st_mtime_ns
  assert study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert (tmp_path / "run" / "a" / "0" / "layers.json").stat().st_mtime_ns == written
  config["base"]["digest"] = "0" * 16
  with pytest.raises(InputError, match="the config expects 0000"):
    study.run_study(config, workdir=tmp_path / "other", runtime=runtime())


def test_a_study_refuses_layers_and_classes_that_are_not_there_before_it_begins(runtime, tmp_path, config):
  config["base"]["diagnosis"]["groups"] = ["haed"]
  with pytest.raises(ConfigError, match="did you mean 'head'"):
    study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  del config["base"]["diagnosis"]["groups"]
  config["base"]["diagnosis"]["data"]["source"] = SOURCE | dict(names="xyz")
  with pytest.raises(DataError, match="data has other classes"):
    study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert not (tmp_path / "run").exists()

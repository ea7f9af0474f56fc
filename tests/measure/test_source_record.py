"""What is on record about a weight: its accuracy at its own step, and the images it has seen."""

import shutil

import numpy as np
import pytest

from jaxtl.checkpoints import checkpoint
from jaxtl.errors import InputError
from jaxtl.host import sealed_json
from jaxtl.measure import source_record
from tests.inference.saved import save
from tests.small_study import checkpointed, trained_once
from tests.small_training import squares

__all__ = ["checkpointed", "trained_once"]  # fixtures


def test_the_digest_is_of_the_arrays(tmp_path):
  one = checkpoint.load(save(tmp_path / "one"))
  same = checkpoint.Weights(one.params, one.batch_stats, {}, "elsewhere")
  assert source_record.weights_digest(one) == source_record.weights_digest(same)
  other = checkpoint.load(save(tmp_path / "other", shift=1e-6))
  assert source_record.weights_digest(one) != source_record.weights_digest(other)


def test_the_accuracy_of_a_run_is_that_of_its_last_evaluation(checkpointed):
  folder, trained = checkpointed
  found = source_record.recorded_accuracy(checkpoint.load(folder))
  assert found["source_accuracy"] == pytest.approx(trained.last("eval/test/top1"))
  assert found["source_accuracy_from"].startswith("eval/test/top1 of ")


def test_a_step_before_the_first_evaluation_has_no_accuracy(checkpointed):
  weights = checkpoint.load(checkpointed[0])
  early = checkpoint.Weights(
    weights.params, weights.batch_stats, {**weights.config, "step": weights.config["step"] - 1}, weights.path
  )
  assert source_record.recorded_accuracy(early)["source_accuracy"] is None


def test_an_import_and_a_damaged_record_have_no_accuracy(tmp_path, checkpointed):
  nothing = dict(source_accuracy=None, source_accuracy_from=None)
  assert source_record.recorded_accuracy(checkpoint.load(save(tmp_path / "w"))) == nothing
  folder, _ = checkpointed
  (checkpoint.find(folder).parent.parent / "metrics.jsonl").write_text("{not json}\n")
  assert source_record.recorded_accuracy(checkpoint.load(folder)) == nothing


@pytest.mark.usefixtures("checkpointed")
def test_a_run_above_is_not_the_run_of_an_import_below(tmp_path):
  shutil.copytree(save(tmp_path / "w"), tmp_path / "start" / "weights" / "w")
  inner = checkpoint.load(tmp_path / "start" / "weights" / "w")
  assert source_record.recorded_accuracy(inner)["source_accuracy"] is None


def test_stated_accuracies_are_percentages(tmp_path):
  file = tmp_path / "results.csv"
  file.write_text("model,top1,top5\nresnet50,76.13,92.9\nvit_s,0.5,1\n")
  assert source_record.read_accuracies(file) == pytest.approx({"resnet50": 0.7613, "vit_s": 0.005})
  for text in ("model,accuracy\na,1\n", "", "model,top1\n"):
    file.write_text(text)
    with pytest.raises(InputError, match="has no columns model and top1"):
      source_record.read_accuracies(file)
  for value in ("high", "", "101", "-1", "nan"):
    file.write_text(f"model,top1\na,{value}\n")
    with pytest.raises(InputError, match=r"a has the top1 .*expected a percentage"):
      source_record.read_accuracies(file)
  file.write_bytes(b"model,top1\n\xff,1\n")
  with pytest.raises(InputError, match="is not a CSV"):
    source_record.read_accuracies(file)
  with pytest.raises(InputError, match="no file"):
    source_record.read_accuracies(tmp_path / "none.csv")


def test_images_that_the_run_trained_on_are_counted(checkpointed):
  weights = checkpoint.load(checkpointed[0])
  trained = squares()

  def seen(source, **options):
    return source_record.seen_images(weights, source, data_dir=None, **options)

  assert seen(trained, trust=True) == 96
  assert seen(trained.take(np.arange(10)), trust=True) == 10
  assert seen(squares(seed=1), trust=True) == 0
  # The run's source is not part of the library, so without trust nothing is known.
  assert seen(trained) is None
  imported = checkpoint.Weights(weights.params, {}, {}, "file")
  assert source_record.seen_images(imported, trained, data_dir=None) is None


def test_curvature_is_that_of_the_same_step_and_weights(checkpointed):
  weights = checkpoint.load(checkpointed[0])
  run = source_record.run_folder(weights)
  step = weights.config["step"]
  assert source_record.recorded_curvature(weights) == []
  values = {"flatness/lambda_max": 4.5, "flatness/training_lambda_max": 0.5, "flatness/num_examples": 48.0}
  records = [{"step": step - 1, "flatness/lambda_max": 9.0}, {"step": step} | values]
  (run / "metrics.jsonl").write_text("".join(sealed_json.line(one) for one in records))
  found = source_record.recorded_curvature(weights)
  assert [(row["loss"], row["lambda_max"], row["num_examples"]) for row in found] == [
    ("cross_entropy", 4.5, 48),
    ("training", 0.5, 48),
  ]
  rows = [
    dict(kind="flatness", weights="a", loss="training", lambda_max=1.0, other=3),
    dict(kind="flatness", weights="b", loss="training", lambda_max=2.0),
    dict(kind="layer", weights="a", loss="training", lambda_max=3.0),
  ]
  assert source_record.curvature_of_rows(rows, "a", measured_by="x") == [
    dict(loss="training", lambda_max=1.0, measured_by="x")
  ]

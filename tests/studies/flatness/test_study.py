"""A study of checkpoints that exist: flatness of each part, what is refused; transfer of one."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxtl import train
from jaxtl.config import parse
from jaxtl.errors import CheckpointError, ConfigError, DataError, InputError, NonFiniteLossError
from jaxtl.host.progress import Progress
from jaxtl.report import write as report
from jaxtl.runner import config_file
from jaxtl.runner import run as study
from jaxtl.studies.flatness import study as flatness
from jaxtl.tasks import LogitsLoss
from jaxtl.train import Experiment
from tests.small_training import tiny_config

pytestmark = pytest.mark.slow


def test_transfer_starts_from_a_checkpoint(study_config, runtime, tmp_path, checkpointed):
  base = dict(start=checkpointed[0], transfer=study_config["base"]["transfer"])
  config = dict(study=".studies.transfer.rows", base=base, arms=dict(a=dict()), seeds=[0])
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert [(row["target"], row["protocol"]) for row in rows] == [("two", "linear_probe"), ("two", "fine_tune")]
  base["start"] = str(tmp_path / "nowhere")
  with pytest.raises(CheckpointError, match="there is no such folder"):
    study.run_study(config, workdir=tmp_path / "other", runtime=runtime())


SMALL = dict(
  spectrum=dict(num_eigenvalues=2, max_products=6, num_probes=2, num_steps=3),
  layers=dict(max_products=2, num_probes=2, effective_probes=2, effective_steps=2),
  sharpness=dict(num_steps=1, num_samples=2),
  slice=dict(num_points=3),
  plane=dict(num_points=3),
)


@pytest.fixture
def flatness_config(checkpointed, study_config):
  base = dict(start=checkpointed[0], flatness=study_config["base"]["flatness"], **SMALL)
  return dict(study=".studies.flatness.rows", base=base, arms=dict(a=dict()), seeds=[0])


def test_a_study_measures_every_part_and_draws_another_subset_for_another_seed(
  runtime, tmp_path, flatness_config
):
  config = flatness_config | dict(seeds=[0, 1])
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  # The checkpoint was trained with the cross-entropy, so there is no second loss.
  assert {row["loss"] for row in rows} == {"cross_entropy"}
  assert [row["kind"] for row in rows[:1]] == ["flatness"]
  assert {row["kind"] for row in rows} == {"flatness", "layer", "slice", "plane"}
  first, second = (row for row in rows if row["kind"] == "flatness")
  assert first["lambda_max"] != second["lambda_max"]
  found = {key: first[key] for key in ("num_examples", "precision", "batch_norm", "images", "seed_of_images")}
  assert found == dict(
    num_examples=48,
    precision="float32 parameters",
    batch_norm="stored statistics",
    images="squares",
    seed_of_images=0,
  )
  assert first["sharpness_plan"]["rho"] == 0.05
  assert (first["compute_type"], first["step_folder"], len(first["weights"])) == ("float32", "12", 16)
  page = report.write(tmp_path / "run", tmp_path / "page").read_text(encoding="utf-8")
  for text in (
    "Curvature of the cross-entropy",
    "Blocks, cross-entropy",
    "Density of the Hessian",
    "Precision",
  ):
    assert text in page


class Counted(Progress):
  """Adds up what is announced and what is done, and keeps the notes."""

  def __init__(self):
    super().__init__(stream=io.StringIO())
    self.notes, self.shares = [], []

  def note(self, text):
    self.notes.append(text)

  def advance(self, work, text, **keywords):
    super().advance(work, text, **keywords)
    self.shares.append(self._done / self._expected)

  @property
  def left(self):
    return self._expected - self._done


def test_progress_names_every_part_and_ends_with_nothing_left(runtime, tmp_path, flatness_config):
  here = runtime()
  here.progress = Counted()
  study.run_study(flatness_config, workdir=tmp_path / "run", runtime=here)
  said = "\n".join(here.progress.notes)
  for part in ("λ_max", "spectrum: trace", "sharpness", "block head", "lines", "plane"):
    assert said.count(f"a/0 | cross-entropy | {part}") == 1, part
  assert here.progress.left == pytest.approx(0, abs=1e-6)  # of about 3000
  assert 0 < min(here.progress.shares) < 0.1
  assert max(here.progress.shares) <= 1 + 1e-9

  (tmp_path / "run" / "a" / "0" / "rows.jsonl").unlink()
  again = runtime()
  again.progress = Counted()
  study.run_study(flatness_config, workdir=tmp_path / "run", runtime=again)
  assert again.progress.left == pytest.approx(0, abs=1e-6)  # what was measured before is not announced
  assert again.progress.shares == []


def test_a_study_that_was_killed_goes_on_with_what_it_had_measured(runtime, tmp_path, flatness_config):
  parts = dict(layers=None, plane=None, slice=None, sharpness=None, spectrum=None)
  config = flatness_config | dict(base=flatness_config["base"] | parts)
  first = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  measured = tmp_path / "run" / "a" / "0" / "cross_entropy.json"
  (measured.parent / "rows.jsonl").unlink()
  written = measured.stat().st_mtime_ns
  again = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert measured.stat().st_mtime_ns == written
  assert again[0]["lambda_max"] == first[0]["lambda_max"]


def test_a_checkpoint_of_another_loss_is_measured_by_that_too(runtime, tmp_path, flatness_config):
  hinge = dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0)
  changed = tiny_config(epochs=1.0, task=dict(make=".tasks.classification", loss=hinge))
  train.run(parse(changed, Experiment), seed=0, runtime=runtime(), workdir=tmp_path / "hinge")
  parts = dict(layers=None, plane=None, slice=None, sharpness=None)
  config = flatness_config | dict(base=flatness_config["base"] | parts | dict(start=str(tmp_path / "hinge")))
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert [(row["loss"], row["differentiated"]) for row in rows] == [
    ("cross_entropy", "softmax_cross_entropy"),
    ("training", "multiclass_smoothed_hinge(margin=7)"),
  ]
  assert rows[0]["lambda_max"] != rows[1]["lambda_max"]
  page = report.write(tmp_path / "run", tmp_path / "page").read_text(encoding="utf-8")
  assert "rows cannot be compared with each other" in page


def test_data_without_transforms_are_prepared_as_the_checkpoint_says(runtime, tmp_path, flatness_config):
  parts = dict(layers=None, plane=None, slice=None, sharpness=None, spectrum=None)
  base = flatness_config["base"] | parts
  own = base | dict(flatness=base["flatness"] | dict(data=base["flatness"]["data"] | dict(transforms=[])))
  found = [
    study.run_study(flatness_config | dict(base=one), workdir=tmp_path / str(i), runtime=runtime())
    for i, one in enumerate((base, own))
  ]
  assert found[0][0]["lambda_max"] == found[1][0]["lambda_max"]
  assert [row["kind"] for row in found[0]] == ["flatness"]


def test_images_of_other_classes_are_refused(runtime, tmp_path, flatness_config):
  data = flatness_config["base"]["flatness"]["data"]
  data["source"] = data["source"] | dict(names="xyz")
  with pytest.raises(DataError, match="other classes") as error:
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_other_weights_at_the_same_place_are_refused(runtime, tmp_path, flatness_config):
  """An interrupted study must not mix the numbers of two weights."""
  config = flatness_config | dict(seeds=[0, 1])
  parts = dict(layers=None, plane=None, slice=None, sharpness=None, spectrum=None)
  config["base"] = config["base"] | parts
  study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  (tmp_path / "run" / "a" / "1" / "rows.jsonl").unlink()
  shutil.rmtree(flatness_config["base"]["start"])
  longer = parse(tiny_config(epochs=3.0), Experiment)
  train.run(longer, seed=0, runtime=runtime(), workdir=Path(flatness_config["base"]["start"]))
  with pytest.raises(InputError, match="started with other weights") as error:
    study.run_study(config, workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(error.value)
  config["base"] = config["base"] | dict(digest="0" * 16)
  with pytest.raises(InputError, match="the config expects 0000"):
    study.run_study(config, workdir=tmp_path / "another", runtime=runtime())


@pytest.mark.parametrize(
  ("where", "message"), [("kernell$", "matches no parameter"), ("kernel[", "is not a regex")]
)
def test_a_misspelt_name_of_parameters_is_refused(runtime, tmp_path, flatness_config, where, message):
  flatness_config["base"]["layers"] = dict(where=where)
  with pytest.raises(ConfigError, match=message):
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert not (tmp_path / "run").exists()


def test_more_eigenvalues_than_parameters_are_refused_before_anything(runtime, tmp_path, flatness_config):
  flatness_config["base"]["spectrum"] = dict(num_eigenvalues=10**6, max_products=10**6)
  with pytest.raises(ConfigError, match=r"eigenvalues is 1000000; .* so write at most \d+$") as error:
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_a_line_to_a_checkpoint_of_another_model_is_refused(runtime, tmp_path, flatness_config):
  wider = parse(tiny_config(epochs=1.0, model=dict(make=".models.resnet8", width=8)), Experiment)
  train.run(wider, seed=0, runtime=runtime(), workdir=tmp_path / "wider")
  flatness_config["base"]["slice"] = dict(towards=str(tmp_path / "wider"))
  with pytest.raises(InputError, match="do not match") as error:
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_names_its_cell(runtime, tmp_path, flatness_config, monkeypatch):
  infinite = LogitsLoss(lambda logits, labels: logits[:, 0] * 0 + np.inf)
  monkeypatch.setattr(flatness, "_losses", lambda network: {"cross_entropy": infinite})
  with pytest.raises(NonFiniteLossError, match=r"^a/0: the loss is inf, although all parameters are finite"):
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())


def test_compute_in_bfloat16_is_told(runtime, tmp_path, flatness_config):
  half = dict(make=".models.resnet8", width=4, dtype="bfloat16")
  train.run(
    parse(tiny_config(epochs=1.0, model=half), Experiment),
    seed=0,
    runtime=runtime(),
    workdir=tmp_path / "half",
  )
  parts = dict(layers=None, plane=None, slice=None, sharpness=None, spectrum=None)
  base = flatness_config["base"] | parts | dict(start=str(tmp_path / "half"))
  [row] = study.run_study(flatness_config | dict(base=base), workdir=tmp_path / "run", runtime=runtime())
  assert (row["compute_type"], row["precision"]) == ("bfloat16", "float32 parameters")
  assert np.isfinite(row["lambda_max"])


@pytest.mark.parametrize(
  ("part", "change", "message"),
  [
    ("spectrum", dict(num_eigenvalues=0), "num_eigenvalues is 0"),
    ("spectrum", dict(max_products=1), "max_products is 1"),
    ("spectrum", dict(num_probes=1), "num_probes is 1"),
    ("spectrum", dict(alpha=0.0), "alpha is 0.0"),
    ("layers", dict(num_probes=1), "num_probes is 1"),
    ("layers", dict(max_products=0), "max_products is 0"),
    ("layers", dict(effective_probes=1), "effective_probes is 1"),
    ("layers", dict(effective_steps=0), "effective_steps is 0"),
    ("layers", dict(alpha=0.0), "alpha is 0.0"),
    ("layers", dict(rho=0.0), "rho is 0.0"),
    ("layers", dict(where=""), "where is ''; expected a regex"),
    ("plane", dict(axes="other"), "axes"),
    ("sharpness", dict(rho=-0.1), "rho is -0.1"),
    ("sharpness", dict(num_samples=1), "num_samples is 1"),
    ("slice", dict(num_points=4), "num_points is 4"),
    ("slice", dict(eigen_span=0.0), "eigen_span is 0.0"),
    ("plane", dict(span=0.0), "span is 0.0"),
  ],
)
def test_impossible_plans_are_refused(flatness_config, part, change, message):
  flatness_config["base"][part] = flatness_config["base"][part] | change
  with pytest.raises(ConfigError, match=message):
    config_file.parse_config(flatness_config)


def test_a_missing_checkpoint_is_refused_before_anything(runtime, tmp_path, flatness_config):
  flatness_config["base"]["start"] = str(tmp_path / "nowhere")
  with pytest.raises(CheckpointError, match="there is no such folder"):
    study.run_study(flatness_config, workdir=tmp_path / "run", runtime=runtime())
  assert not (tmp_path / "run").exists()

"""A whole selection study of two checkpoints: its rows, what it takes from other runs, and its report."""

import copy
import json
import shutil

import numpy as np
import pytest

from jaxtl import config as config_lib
from jaxtl.errors import ConfigError, InputError
from jaxtl.measure import transfer_scores
from jaxtl.report import results as results_lib
from jaxtl.report import write
from jaxtl.runner import run as study
from jaxtl.studies.selection import report, tables
from jaxtl.studies.selection.settings import SelectionStudy
from tests.inference.saved import NORMALIZE, save
from tests.small_study import make_study_config, trained_once
from tests.small_training import quiet_runtime

__all__ = ["trained_once"]  # a fixture

pytestmark = pytest.mark.slow

SCORES = ["ridge", "h_score", "knn_1", "leep", "nc1"]


def config_of(starts, **changes):
  target = make_study_config()["base"]["transfer"]["targets"]["two"]
  for part in target.values():
    del part["transforms"]
  base = dict(
    transfer=dict(targets=dict(two=target), linear_probe=dict(l2=[0.01, 0.1])),
    scores=SCORES,
    permutations=2,
    batch_size=32,
  )
  arms = {name: dict(start=start) for name, start in starts.items()}
  return copy.deepcopy(
    dict(study=".studies.selection.rows", title="selection", seeds=[0], base=base | changes, arms=arms)
  )


@pytest.fixture(scope="module")
def starts(trained_once, tmp_path_factory):
  other = tmp_path_factory.mktemp("other") / "random"
  return {"trained": str(trained_once[0]), "random": str(save(other, transforms=[NORMALIZE], size=8))}


@pytest.fixture(scope="module")
def finished(starts, tmp_path_factory):
  """A study, which no test may change."""
  folder = tmp_path_factory.mktemp("selection") / "run"
  return folder, study.run_study(config_of(starts), workdir=folder, runtime=quiet_runtime())


def kinds(rows, kind):
  return [row for row in rows if row["kind"] == kind]


def test_every_checkpoint_has_scores_controls_and_transfer(finished):
  _, rows = finished
  for arm in ("trained", "random"):
    own = [row for row in rows if row["arm"] == arm]
    [weight] = kinds(own, "weight")
    assert weight["cluster"] == arm
    assert weight["architecture"] == "resnet8"
    assert [row["score"] for row in kinds(own, "score")] == SCORES
    assert all("value" in row for row in kinds(own, "score"))
    assert {row["control"] for row in kinds(own, "control")} == {
      "resnet8, untrained",
      "8 x 8 pixels",
      "mean and spread of the channels",
    }
    assert "leep" not in {row["score"] for row in kinds(own, "control")}
    assert [row["protocol"] for row in kinds(own, "transfer")] == ["linear_probe"]
  measured = {row["arm"]: row["source_accuracy"] for row in kinds(rows, "weight")}
  assert measured["trained"] is not None
  assert measured["random"] is None
  json.dumps(rows, allow_nan=False)


def test_finished_scores_are_read_back(finished, starts, tmp_path, monkeypatch):
  folder, rows = finished
  shutil.copytree(folder, tmp_path / "run")
  (tmp_path / "run" / "random" / "0" / "rows.jsonl").unlink()

  def compute(*_, **__):
    raise AssertionError("a finished target was scored again")

  monkeypatch.setattr(transfer_scores, "score_all", compute)
  again = study.run_study(config_of(starts), workdir=tmp_path / "run", runtime=quiet_runtime())
  without = [[{k: v for k, v in row.items() if k != "session"} for row in one] for one in (rows, again)]
  assert without[0] == without[1]


def test_transfer_is_taken_from_a_finished_run_of_the_same_weights(finished, starts, tmp_path):
  folder, rows = finished
  changes = dict(measured_from=[str(folder)], controls=False, permutations=0)
  config = config_of(dict(starts, again=starts["trained"]), **changes)
  config["base"]["transfer"]["linear_probe"] = None
  found = study.run_study(config, workdir=tmp_path / "run", runtime=quiet_runtime())
  assert not kinds(found, "control")
  assert "null_mean" not in kinds(found, "score")[0]
  accuracies = {row["arm"]: row["accuracy"] for row in kinds(found, "transfer")}
  expected = {row["arm"]: row["accuracy"] for row in kinds(rows, "transfer")}
  assert accuracies == expected | {"again": expected["trained"]}
  assert all(row["measured_in"].endswith("/0") for row in kinds(found, "transfer"))
  missing = config_of(starts, measured_from=[str(tmp_path / "none")])
  missing["base"]["transfer"]["linear_probe"] = None
  with pytest.raises(InputError, match="there is no run in"):
    study.run_study(missing, workdir=tmp_path / "other", runtime=quiet_runtime())
  assert not (tmp_path / "other").exists()


def test_the_report_has_every_predictor(finished):
  folder, _ = finished
  results = results_lib.load(folder)
  section = report.section(results)
  assert section.lead[0].startswith("Linear probe: with 1 targets and 2 clusters of checkpoints no predictor")
  assert any("the checkpoint that ridge puts first" in line for line in section.lead)
  [predictors, nulls] = section.grids
  titles = [row[0] for row in predictors.rows]
  # The heads have 3 and 7 classes, and the source accuracy of one is not known.
  assert set(titles) == {"ridge", "H", "1-NN", "number of parameters"}
  assert "LEEP is left out: the heads have different numbers of classes." in predictors.note
  assert [row[0] for row in nulls.rows] == ["ridge", "H", "1-NN", "LEEP"]
  [(table, _)] = section.tables
  assert [column.title for column in table.columns] == ["two", "two"]
  [taus] = section.appendix
  assert taus.header == ["predictor", "two"]
  names = [figure.name for figure in section.figures]
  assert names == ["predictors_linear_probe", "ridge_linear_probe"]


def test_the_page_of_the_study_shows_the_predictors(finished, tmp_path):
  folder, _ = finished
  text = write.write(folder, tmp_path / "report", data_dir=None, trust=True).read_text()
  assert "Predictors of linear probe" in text
  assert "Permuted labels and controls" in text


def test_controls_that_reach_a_checkpoint_are_counted(finished):
  folder, rows = finished
  results = results_lib.load(folder)
  values = {row["arm"]: row["value"] for row in kinds(rows, "score") if row["score"] == "ridge"}
  expected = sum(
    row["value"] >= values[row["arm"]] for row in kinds(rows, "control") if row["score"] == "ridge"
  )
  assert tables._controls(results, "ridge") == (expected, 6)
  # Colours alone tell the classes of these images.
  assert expected >= 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(scores=["h"]), "no score 'h'"),
    (dict(by="nc1"), "cannot be ordered by 'nc1'"),
    (dict(permutations=1), r"permutations .*0, or at least 2"),
    (dict(max_examples=1), r"max_examples .*at least 2"),
    (dict(source_accuracy=60.0), r"source_accuracy .*from 0 to 1"),
    (dict(batch_size=0), r"batch_size .*at least 1"),
    (dict(measured_from=["runs/a"]), "give one of them"),
  ],
)
def test_settings_out_of_range_are_one_line(changes, message):
  base = config_of({}, **changes)["base"] | dict(start="runs/x")
  with pytest.raises(ConfigError, match=message):
    config_lib.parse(base, SelectionStudy)


def test_a_stated_accuracy_and_a_cluster_reach_the_rows(starts, tmp_path):
  changes = dict(source_accuracy=0.6, cluster="one", controls=False, permutations=0, max_examples=20)
  found = study.run_study(config_of(starts, **changes), workdir=tmp_path / "run", runtime=quiet_runtime())
  weights = {row["arm"]: row for row in kinds(found, "weight")}
  assert weights["random"]["source_accuracy"] == 0.6
  # What the run measured counts before what a config states.
  assert weights["trained"]["source_accuracy"] != 0.6
  assert {row["cluster"] for row in weights.values()} == {"one"}
  assert {row["num_examples"] for row in kinds(found, "score")} == {20}
  assert np.isfinite([row["value"] for row in kinds(found, "score")]).all()

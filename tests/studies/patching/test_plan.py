"""What a patching study refuses, in one line, before anything is written."""

import copy
import dataclasses
import re

import numpy as np
import pytest

from jaxtl import tree
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import CheckpointError, ConfigError, DataError
from jaxtl.runner import describe
from tests.changed import changed
from tests.studies.patching.test_study import PLAIN, base, checkpointed, data, half, run, task

pytestmark = pytest.mark.slow

__all__ = ["base", "checkpointed"]
SEARCH = dict(fn=".weights.optimize_alpha")


def cold(function):
  """A search that cannot be told of a sweep."""


def loose(function, *, warm=(), bounds=(0.0, 1.0)):
  """A search whose bounds may be anything."""


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (("supported",), {}, "supported is .*at least one task"),
    (("patching",), {}, "patching is .*at least one task"),
    (("normalise",), "mean", "normalise is 'mean'; expected one of"),
    (("statistics_batches",), -1, "statistics_batches is -1"),
    (("patching", "old"), task(3), "no task that is both supported and patched"),
    (("patching", "two", "train"), None, "train data for every patching task"),
    (("patching", "two", "test"), half(11), "must not be chosen on either"),
    (("fine_tune", "optimizer"), dict(make="optax.lion", learning_rate=0.1), "cannot freeze the head"),
    (("supported", "old", "validation"), data(2, num_classes=2), "old.validation has other classes"),
    (("supported", "old", "head"), None, None),
    (("start",), "nowhere", "there is no such folder"),
    (("search",), SEARCH | dict(width=1.5), "width is 1.5"),
    (("search",), SEARCH | dict(bracket="grid"), "bracket='grid' needs a sweep"),
    (
      ("search",),
      SEARCH | dict(bounds=[0.2, 0.8]),
      r"search\.bounds is \(0\.2, 0\.8\); expected two numbers",
    ),
    (("search",), SEARCH | dict(bounds=[0.0]), r"search\.bounds is \[0\.0\]; expected 2 values"),
    (
      ("search",),
      dict(fn="tests.studies.patching.test_plan.loose", bounds=[0, 1, 2]),
      r"search\.bounds is \(0, 1, 2\); expected two numbers",
    ),
    (("search",), dict(fn="tests.studies.patching.test_plan.cold"), "cold, which takes no 'warm'"),
    (("supported", "new"), task(30) | dict(train=None), "the head of new: .* has no training images"),
    (("patching", "three", "head"), dict(fn=".studies.patching.own"), "the head of three: .* other classes"),
  ],
)
def test_bad_input_is_one_line(base, runtime, tmp_path, path, value, message):
  wrong = changed(base, path, value)
  if message is None:  # a task may leave the head to the study
    assert run(wrong, runtime, tmp_path / "run")
    return
  with pytest.raises((CheckpointError, ConfigError, DataError), match=message) as caught:
    run(wrong, runtime, tmp_path / "run")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()


def test_tasks_with_images_of_two_sizes_are_refused(base, runtime, tmp_path):
  bigger = copy.deepcopy(base)
  bigger["patching"]["two"]["test"]["transforms"] = [dict(fn=".data.resize", size=12), *PLAIN]
  with pytest.raises(DataError, match=r"two\.test gives images of 12 pixels, and old\.validation of 8"):
    run(bigger, runtime, tmp_path / "run")


@pytest.mark.parametrize("where", ["params/head/bias", "params/(?!head)", "batch_stats/"])
def test_a_start_that_is_not_finite_is_refused_by_name(base, runtime, tmp_path, where):
  start = checkpoint.load(base["start"])
  whole = {"params": start.params, "batch_stats": start.batch_stats}
  name = next(path for path in tree.paths(whole) if re.match(where, path))
  spoilt = tree.map_with_path(lambda path, x: np.full_like(x, np.nan) if path == name else x, whole)
  said = name.replace("batch_stats/", "the statistic '").replace("params/", "the parameter '")
  checkpoint.save_weights(dataclasses.replace(start, **spoilt), tmp_path / "bad")
  bad = dict(base, start=str(tmp_path / "bad"))
  with pytest.raises(CheckpointError, match=f"bad.*: {said}' is not finite") as caught:
    run(bad, runtime, tmp_path / "run")
  assert caught.value.code == 2
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()
  config = dict(study=".studies.patching.rows", base=bad, arms=dict(a=dict()), seeds=[0])
  with pytest.raises(CheckpointError, match=f"{said}' is not finite"):
    describe.describe(config, runtime())

"""λ_max during training, and the eigenvectors that it goes on from."""

import dataclasses
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import train, tree
from jaxtl.config import parse
from jaxtl.errors import Restart
from jaxtl.host import sealed_json
from jaxtl.measure import lambda_max
from jaxtl.measure.lambda_max import EigenvectorCache, Flatness
from jaxtl.measure.landscape import Landscape
from jaxtl.measure.losses import training_loss
from jaxtl.runner import run as study
from tests.small_training import tiny_config

pytestmark = pytest.mark.slow


def observing(runtime, folder, steps, *, period, num_iters=200):
  """The flatness records of a run that measures every `period` steps; stopped after `steps` where given."""
  plain = [dict(fn=".data.normalize")]
  data = dict(source=dict(make="tests.small_training.squares"), transforms=plain, batch_size=16)
  base = tiny_config(
    epochs=2.0,
    checkpoint_every=4,
    flatness=dict(data=data, num_examples=48, num_iters=num_iters, tolerance=1e-3, evaluate_every=period),
  )
  config = dict(study=".studies.pretrain.rows", seeds=[0], base=base, arms=dict(a=dict()))
  here = runtime()
  if steps is not None:
    here.interruption = StopAfter(steps)
    with pytest.raises(Restart):
      study.run_study(config, workdir=folder, runtime=here)
  else:
    study.run_study(config, workdir=folder, runtime=here)
  lines = (folder / "a" / "0" / "metrics.jsonl").read_text().splitlines()
  records = [sealed_json.record(line) for line in lines]
  return {r["step"]: r for r in records if "flatness/lambda_max" in r}


class StopAfter:
  def __init__(self, step):
    self.step = step

  def due(self, step):
    return step >= self.step


def test_the_observer_goes_on_from_its_last_eigenvector(runtime, tmp_path, monkeypatch):
  warm = observing(runtime, tmp_path / "warm", None, period=2)
  assert sorted(warm) == [2, 4, 6, 8, 10, 12]
  monkeypatch.setattr(EigenvectorCache, "before", lambda *_: None)
  cold = observing(runtime, tmp_path / "cold", None, period=2)
  products = [sum(r["flatness/num_products"] for r in found.values()) for found in (warm, cold)]
  assert products[0] < products[1]
  assert warm[2]["flatness/num_products"] == cold[2]["flatness/num_products"]
  monkeypatch.undo()
  assert sorted(observing(runtime, tmp_path / "by_checkpoint", None, period=None)) == [4, 8, 12]


def test_a_run_that_measures_again_measures_the_same(runtime, tmp_path):
  """Killed behind a measurement that no checkpoint has: it is made again, from the same vector."""
  whole = observing(runtime, tmp_path / "whole", None, period=2)
  observing(runtime, tmp_path / "killed", 7, period=2)
  shutil.rmtree(tmp_path / "killed" / "a" / "0" / "checkpoints" / "7")  # as if it had not been saved
  resumed = observing(runtime, tmp_path / "killed", None, period=2)
  numbers = lambda found: {  # noqa: E731
    step: {key: value for key, value in record.items() if "flatness/" in key and "seconds" not in key}
    for step, record in found.items()
  }
  assert numbers(resumed) == numbers(whole)


def test_old_eigenvectors_go_and_damaged_ones_are_started_without(runtime, tmp_path):
  like = {"a": jnp.ones(3)}
  trail = EigenvectorCache(tmp_path / "v", 2, 4, runtime().mesh)
  half = EigenvectorCache(tmp_path / "half", 2, 4, runtime().mesh)
  half.keep(2, {"a": jnp.ones(3, jnp.bfloat16)})
  np.testing.assert_array_equal(half.before(4, {"a": jnp.ones(3, jnp.bfloat16)})["a"], np.ones(3))
  assert trail.before(2, like) is None
  for step in range(2, 14, 2):
    trail.keep(step, tree.scale(float(step), like))
  assert sorted(int(path.name.split(".")[0]) for path in trail.folder.iterdir()) == [6, 8, 10, 12]
  np.testing.assert_array_equal(trail.before(10, like)["a"], 8 * np.ones(3))
  assert trail.before(15, like) is None  # 12 is not the measurement before
  for torn in (b"torn", b""):
    (trail.folder / "8.0.npz").write_bytes(torn)
    assert trail.before(10, like) is None
  assert trail.before(12, {"b": jnp.ones(3)}) is None


def test_one_flipped_bit_of_an_eigenvector_is_never_read_as_another_vector(runtime, tmp_path):
  like, rng, notes = {"a": jnp.arange(3.0), "b": {"c": jnp.ones((2, 2))}}, random.Random(0), []
  trail = EigenvectorCache(tmp_path, 2, 4, runtime().mesh, notes.append)
  trail.keep(2, like)
  file = tmp_path / "2.0.npz"
  content = file.read_bytes()
  for _ in range(150):
    bit, changed = rng.randrange(8 * len(content)), bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)
    found, lost = trail.before(4, like), len(notes)
    assert (found is None) == (lost > 0)
    if found is not None:
      jax.tree.map(np.testing.assert_array_equal, found, like)
    notes.clear()


def test_the_training_loss_is_measured_as_well(tiny, runtime):
  """Next to the cross-entropy, which stays the same number; independently, by a landscape of that loss."""
  task = dict(make=".tasks.classification", loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0))
  plain = [dict(fn=".data.normalize")]
  data = dict(source=dict(make="tests.small_training.squares"), transforms=plain, batch_size=16)
  settings = parse(dict(data=data, num_examples=48, num_iters=200, tolerance=1e-3), Flatness)
  found = {}
  for both in (False, True):
    one = dataclasses.replace(settings, training_loss=both)
    observers = {"flatness": (None, lambda_max.observer(one, runtime()))}
    trained = train.run(tiny(task=task, epochs=0.5), seed=0, runtime=runtime(), observers=observers)
    found[both] = {key: value for key, value in trained.history[-1].items() if "lambda_max" in key}
  assert list(found[False]) == ["flatness/lambda_max"]
  assert found[True]["flatness/lambda_max"] == found[False]["flatness/lambda_max"]
  landscape = Landscape.of(
    trained.program.model,
    trained.weights.params,
    trained.weights.batch_stats,
    training_loss(trained.program.task),
    settings.data,
    runtime(),
    num_examples=48,
    seed=0,
  )
  largest = landscape.extremes(num_iters=400, tolerance=1e-4).algebraic.value
  assert found[True]["flatness/training_lambda_max"] == pytest.approx(float(largest), rel=1e-3)
  assert found[True]["flatness/training_lambda_max"] != pytest.approx(found[True]["flatness/lambda_max"])

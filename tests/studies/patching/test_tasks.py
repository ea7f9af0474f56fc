"""A backbone with its heads, and what the tasks score along a path."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses, tree, weights
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import CheckpointError
from jaxtl.studies.patching.backbone import Backbone
from jaxtl.studies.patching.tasks import Tasks
from tests.studies.patching.test_study import base, bench_of, checkpointed, run

__all__ = ["base", "checkpointed"]


def test_scores_are_those_of_the_whole_model(base, runtime, tmp_path):
  bench = bench_of(base, runtime, tmp_path)
  found = bench.tasks.scores("three", "test", bench.before)
  whole = bench.tasks.backbone.weights(**bench.before, head=bench.tasks.head("three"), classes="uvw")
  model = whole.model_spec().realize(num_classes=3)
  values, hits = [], []
  for batch in bench.runtime.eval_batches(bench.study.patching["three"].test):
    logits = model.apply(whole.params, whole.batch_stats, jnp.asarray(batch["image"]))[0]["logits"]
    values.append(losses.softmax_cross_entropy(logits, jnp.asarray(batch["label"]))[batch["mask"]])
    hits.append((np.argmax(logits, axis=-1) == batch["label"])[batch["mask"]])
  np.testing.assert_allclose(found["loss"], np.concatenate(values).mean(), rtol=1e-5)
  np.testing.assert_allclose(found["top1"], np.concatenate(hits).mean(), rtol=1e-6)


def test_the_gradient_is_that_of_the_mean_validation_loss(base, runtime, tmp_path):
  """Along the path it is the derivative of the loss, by differences of losses."""
  bench = bench_of(base, runtime, tmp_path)
  path = bench.path("two")
  before, after = path.weights(0.0), path.weights(1.0)
  gradient = bench.tasks.gradient("old", before["params"], before["batch_stats"])
  slope, _ = weights.slope_along(gradient, weights.between(before["params"], after["params"]))
  step = 0.02
  values = [path.losses(["old"])(alpha)["old"] for alpha in (0.0, step, 2 * step)]
  assert slope == pytest.approx((4 * values[1] - 3 * values[0] - values[2]) / (2 * step), rel=0.05)


def test_an_alpha_is_scored_once(base, runtime, tmp_path, monkeypatch):
  bench = bench_of(base, runtime, tmp_path)
  path = bench.path("two")
  passes = []
  score = Tasks.scores
  monkeypatch.setattr(
    Tasks, "scores", lambda self, name, part, found: passes.append(name) or score(self, name, part, found)
  )
  for _ in range(3):
    path.scores(0.25, ["old", "two"])
  assert passes == ["old", "two"]


def test_statistics_beyond_the_fine_tuned_weights_are_estimated_too(base, runtime, tmp_path):
  search = dict(fn=".weights.brent", bounds=[0.0, 1.2])
  bench = bench_of(base, runtime, tmp_path, statistics_batches=2, search=search)
  stored = bench_of(base, runtime, tmp_path, search=search).path("two")
  at = [path.weights(1.2)["batch_stats"] for path in (stored, bench.path("two"))]
  assert tree.norm(tree.sub(*at)) > 0


def test_a_head_of_another_shape_is_refused(base, runtime, tmp_path):
  changed = dict(base, head=dict(fn="tests.studies.patching.test_tasks.wrong_head"))
  with pytest.raises(CheckpointError, match="head/kernel"):
    run(changed, runtime, tmp_path / "run")


def wrong_head(around):
  return {"kernel": np.zeros((3, len(around.classes))), "bias": np.zeros(len(around.classes))}


def test_a_backbone_is_the_checkpoint_without_its_head(checkpointed):
  start = checkpoint.load(checkpointed)
  backbone = Backbone.of(start, side=8, trust=False)
  assert set(backbone.params) == set(start.params) - {"head"}

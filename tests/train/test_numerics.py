"""Weights that fit a model which makes other features of them."""

import jax
import numpy as np
import pytest

from jaxtl.checkpoints.checkpoint import save_weights
from jaxtl.config import parse, spec
from jaxtl.errors import CheckpointError
from jaxtl.models import resnet8
from jaxtl.train import Experiment, Weights, numerics, run
from jaxtl.train.step import init_model
from tests.small_training import tiny_config

SMALL = dict(make=".models.resnet8", width=4)
VIT = dict(make=".models.vit_ti16", image_size=8, patch_size=4, width=8, num_heads=2, depth=1)


def weights_of(model, classes=("a", "b", "c"), size=8):
  """Fresh weights of a model whose statistics are not those of the beginning, as a checkpoint."""
  made = spec(model).realize(num_classes=len(classes))
  params, stats = init_model(made, jax.random.key(1), (size, size, 3))
  rng = np.random.default_rng(0)
  stats = jax.tree.map(lambda x: np.asarray(rng.uniform(0.01, 0.1, x.shape), np.float32), stats)
  config = {"model": model, "classes": list(classes), "transforms": None}
  return Weights(jax.tree.map(np.asarray, params), stats, config, "somewhere")


def start(model, weights, runtime, **keywords):
  """A run of no steps from the weights, under a model."""
  experiment = parse(tiny_config(model=model, epochs=0.0, evaluation={}), Experiment)
  return run(experiment, seed=0, runtime=runtime(), start=weights, **keywords)


@pytest.mark.parametrize(
  ("trained", "own", "said"),
  [
    (SMALL, dict(padding="same"), "padding: 'same' -> 'symmetric'"),
    (SMALL, dict(bn_epsilon=1e-3), "bn_epsilon: 0.001 -> 1e-05"),
    (VIT, dict(activation="quick_gelu"), "activation: 'quick_gelu' -> 'gelu'"),
    (VIT, dict(num_heads=4), "num_heads: 4 -> 2"),
    (VIT, dict(norm_epsilon=1e-2), "norm_epsilon: 0.01 -> 1e-06"),
  ],
)
def test_another_models_numerics_are_refused_by_name(runtime, trained, own, said):
  weights = weights_of(trained | own)
  with pytest.raises(CheckpointError) as caught:
    start(trained, weights, runtime, fresh_head="padding" in own)
  line = str(caught.value)
  assert line.startswith(f"the weights in somewhere were trained in another model than this run's: {said}")
  assert "write that of the weights, model=dict(make=" in line
  assert "\n" not in line


@pytest.mark.parametrize(
  ("trained", "own"),
  [
    (SMALL | dict(padding="same", bn_epsilon=1e-3), {}),
    (SMALL | dict(padding="same"), dict(dtype="bfloat16")),
    (VIT, dict(dropout=0.1, drop_path=0.1)),
    (SMALL, dict(bn_momentum=0.5, batch_norm="stored")),
  ],
)
def test_the_same_numerics_start_whatever_acts_in_training_only(runtime, trained, own):
  weights = weights_of(trained)
  begun = start(trained | own, weights, runtime)
  jax.tree.map(np.testing.assert_array_equal, begun.weights.params, weights.params)


def test_what_the_weights_say_is_a_default_is_one(runtime):
  start(SMALL, weights_of(SMALL | dict(padding="symmetric", bn_epsilon=1e-5)), runtime)


def renamed(*, num_classes: int, gain: float = 1.0, width: int = 4):
  """Somebody's own model: ours under another name, without its keywords; `gain` does nothing."""
  return resnet8(num_classes=num_classes, width=width)


def test_another_name_and_a_keyword_without_effect_are_no_other_model(runtime):
  own = dict(make=f"{__name__}.renamed", gain=2.0)
  start(own, weights_of(dict(make=".models.resnet8", width=4)), runtime)


def test_other_strides_under_another_name_are(runtime):
  """Of one structure and one set of shapes, and another padding inside."""
  weights = weights_of(dict(make=".models.resnet8", width=4, padding="same"))
  with pytest.raises(CheckpointError, match=r"make: '.models.resnet8' -> '.*renamed'"):
    start(dict(make=f"{__name__}.renamed"), weights, runtime)


def test_a_start_from_an_experiments_own_field_is_looked_at_too(tmp_path, runtime):
  save_weights(weights_of(SMALL | dict(padding="same")), tmp_path / "start")
  config = tiny_config(model=SMALL, epochs=0.0, evaluation={}, start=str(tmp_path / "start"))
  with pytest.raises(CheckpointError, match="padding: 'same' -> 'symmetric'"):
    run(parse(config, Experiment), seed=0, runtime=runtime())


def test_weights_that_do_not_say_their_model_are_taken(runtime):
  weights = weights_of(SMALL)
  del weights.config["model"]
  start(SMALL, weights, runtime)


def test_the_line_says_what_to_write():
  found = numerics._written(spec(dict(make=".models.mobilenet_v2", width_factor=0.25, padding="same")))
  assert found == 'dict(make=".models.mobilenet_v2", width_factor=0.25, padding="same")'

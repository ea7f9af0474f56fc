"""The same weights in the original library and here: evaluation and training, features and gradients.

Not called test_*: it needs torch, torchvision, timm, transformers and open_clip, which `make test` does
without. JAXTL_ORACLE_PYTHON names another interpreter that has them; the default is this one.
"""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree
from jaxtl.pretrained import LAYOUTS
from jaxtl.pretrained.verify import keywords_of, run_original
from tests.oracles.cases import CASES, CLASSES, inputs_of, prepared
from tests.oracles.modules import stage_modules

# Read when the first computation starts. Nearly all of the time is LLVM's, for programs that run once.
os.environ.setdefault(
  "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
PYTHON = os.environ.get("JAXTL_ORACLE_PYTHON", sys.executable)
SMALL_NETWORKS = Path(__file__).with_name("small_networks.py")
TOLERANCE = 1e-4  # relative to the largest value of each array, in float32


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_outputs_features_gradients_and_statistics(case, train):
  model, ours, entries, tensors = prepared(case, train=train)
  stages = stage_modules(case, keywords_of(case.spec()))
  kernels = first_and_last(entries, model)
  more = dict(train=train, modules=stages, gradients=[key for entry in kernels for key in entry.keys])
  more |= dict(script=SMALL_NETWORKS) if LAYOUTS[case.layout].library is None else {}
  run = value_and_gradient(model, ours["batch_stats"], train)
  given = smooth_inputs(case, run, ours["params"], kernels[0], train=train)
  theirs = run_original(
    LAYOUTS[case.layout].library, case.spec(), tensors, given, num_classes=CLASSES, python=PYTHON, **more
  )
  (_, (features, after)), gradient = run(ours["params"], jnp.asarray(next(iter(given.values()))))
  found = {"outputs": difference(features[output(features)], theirs["logits"])}
  for stage in stages:
    found[stage] = difference(features[stage], as_map(theirs[f"module/{stage}"], features[stage].shape))
  for entry in kernels:
    expected = as_gradient(entry, [theirs[f"gradient/{key}"] for key in entry.keys])
    found[f"gradient of {entry.path}"] = difference(leaf(gradient, entry.path), expected)
  if train:
    found |= statistics(entries, ours, after, theirs, momentum=keywords_of(case.spec()).get("bn_momentum"))
  worst = max(found, key=found.get)
  print(f"{case} {'train' if train else 'eval'}: {len(found)} arrays, largest {found[worst]:.1e} ({worst})")
  assert found[worst] < TOLERANCE


def smooth_inputs(case, run, params, kernel, *, train):
  """The first draw of inputs at which the gradient of `kernel` is smooth on the scale of rounding.

  Where a ReLU is within rounding of its kink, a gradient takes one of two values, and which is chance: our
  own does when the image moves by some roundings. Such a draw tells nothing of an implementation.
  """
  for seed in range(1, 9):
    given = inputs_of(case, train=train, seed=seed)
    if "images" not in given:
      return given
    gradients = [
      leaf(run(params, jnp.asarray(given["images"] * np.float32(1 + shift)))[1], kernel.path)
      for shift in (0.0, 1e-6, -1e-6)
    ]
    if max(difference(gradients[0], np.asarray(moved)) for moved in gradients[1:]) < TOLERANCE:
      return given
  raise AssertionError(f"{case}: every draw has a unit within rounding of its kink")


def output(features):
  return "logits" if "logits" in features else "pooled"


def value_and_gradient(model, batch_stats, train):
  """Jitted (params, inputs) -> ((loss, (features, statistics)), gradient) of the mean cross-entropy."""

  def loss(params, x):
    features, after = model.apply(params, batch_stats, x, train=train, key=jax.random.key(0))
    out = features[output(features)]
    labels = jnp.arange(len(out)) % out.shape[1]
    return -jnp.mean(jax.nn.log_softmax(out)[jnp.arange(len(out)), labels]), (features, after)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def difference(ours, theirs):
  assert ours.shape == theirs.shape
  return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def leaf(gradient, path):
  return dict(zip(tree.paths({"params": gradient}), jax.tree.leaves(gradient), strict=True))[path]


def first_and_last(entries, model):
  """The entries of the first kernel and of the last."""
  found = {entry.path: entry for entry in entries if entry.path.endswith("kernel")}
  in_order = [path for block in model.blocks for path in found if path.startswith(f"params/{block}/")]
  return [found[in_order[0]], found[in_order[-1]]]


def as_map(theirs, shape):
  """[B, D, h, w] or [B, T, D] -> [B, h, w, D]."""
  if theirs.ndim == 4:
    return theirs.transpose(0, 2, 3, 1)
  return theirs[:, theirs.shape[1] - shape[1] * shape[2] :].reshape(shape)


def as_gradient(entry, theirs):
  """Their gradient for our leaf: where ours is half of what two classifiers have, twice theirs."""
  if entry.path == "params/head/kernel" and len(entry.keys) == 2:
    return np.concatenate([2 * part.T for part in theirs])
  return entry.rule.to_ours(theirs, entry.shape)


def statistics(entries, before, after, theirs, *, momentum):
  """The running statistics after one step.

  torch's running variance takes the batch's divided by n - 1, ours the one divided by n: what the step added
  differs by one factor n / (n - 1) per layer, which has to be the same for all of its channels.
  """
  old = dict(zip(tree.paths(before), jax.tree.leaves(before), strict=True))
  new = dict(zip(tree.paths({"batch_stats": after}), jax.tree.leaves(after), strict=True))
  found = {}
  for entry in entries:
    if entry.path.endswith("/mean"):
      found[entry.path] = difference(new[entry.path], theirs[f"after/{entry.keys[0]}"])
    elif entry.path.endswith("/var"):
      kept = momentum * old[entry.path]
      ours, expected = np.asarray(new[entry.path]) - kept, theirs[f"after/{entry.keys[0]}"] - kept
      seen = ours > 1e-6 * ours.max()  # channels that are off all the time have no variance
      factor = np.median(expected[seen] / ours[seen])
      assert 0.999 < factor <= 4 / 3 + 1e-3, (entry.path, factor)
      found[entry.path] = difference(kept + ours * factor, theirs[f"after/{entry.keys[0]}"])
  return found

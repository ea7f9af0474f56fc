"""DINOv2 with its layer scales folded computes what a plain NumPy forward pass with layer scales does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxtl import models
from jaxtl.errors import CheckpointError
from jaxtl.pretrained import LAYOUTS, read
from jaxtl.train.step import shapes_of

WIDTH, DEPTH, HEADS, PATCH, SIDE = 12, 2, 3, 4, 12
LAYOUT = LAYOUTS["dinov2"]


def small():
  return models.vit_s16(
    num_classes=5, width=WIDTH, depth=DEPTH, num_heads=HEADS, patch_size=PATCH, image_size=SIDE
  )


def tensors(*, grid=SIDE // PATCH, seed=0):
  """A file of Dinov2Model's."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)  # noqa: E731
  found = {
    "embeddings.cls_token": draw(1, 1, WIDTH),
    "embeddings.mask_token": draw(1, WIDTH),
    "embeddings.position_embeddings": draw(1, 1 + grid**2, WIDTH),
    "embeddings.patch_embeddings.projection.weight": draw(WIDTH, 3, PATCH, PATCH),
    "embeddings.patch_embeddings.projection.bias": draw(WIDTH),
    "layernorm.weight": 1 + draw(WIDTH),
    "layernorm.bias": draw(WIDTH),
  }
  for block in range(DEPTH):
    at = f"encoder.layer.{block}"
    for part in ("query", "key", "value"):
      found[f"{at}.attention.attention.{part}.weight"] = draw(WIDTH, WIDTH)
      found[f"{at}.attention.attention.{part}.bias"] = draw(WIDTH)
    shapes = {"attention.output.dense": (WIDTH, WIDTH), "mlp.fc1": (48, WIDTH), "mlp.fc2": (WIDTH, 48)}
    for name, shape in shapes.items():
      found[f"{at}.{name}.weight"], found[f"{at}.{name}.bias"] = draw(*shape), draw(shape[0])
    for number in (1, 2):
      found[f"{at}.norm{number}.weight"], found[f"{at}.norm{number}.bias"] = 1 + draw(WIDTH), draw(WIDTH)
      found[f"{at}.layer_scale{number}.lambda1"] = draw(WIDTH)
  return found


def forward(t, images):
  """The class token after the last norm, in float64."""
  t = {key: value.astype(np.float64) for key, value in t.items()}

  def norm(x, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]

  def linear(x, name):
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

  rows = []
  for image in images.astype(np.float64):
    patches = []
    for top in range(0, SIDE, PATCH):
      for left in range(0, SIDE, PATCH):
        patch = image[top : top + PATCH, left : left + PATCH].transpose(2, 0, 1)
        kernel = t["embeddings.patch_embeddings.projection.weight"]
        patches.append((kernel * patch).sum((1, 2, 3)) + t["embeddings.patch_embeddings.projection.bias"])
    x = np.concatenate([t["embeddings.cls_token"][0], patches]) + t["embeddings.position_embeddings"][0]
    for block in range(DEPTH):
      at = f"encoder.layer.{block}"
      y = norm(x, f"{at}.norm1")
      q, k, v = (linear(y, f"{at}.attention.attention.{part}") for part in ("query", "key", "value"))
      mixed = []
      for head in range(HEADS):
        own = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        logits = q[:, own] @ k[:, own].T / np.sqrt(WIDTH // HEADS)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, own])
      y = linear(np.concatenate(mixed, -1), f"{at}.attention.output.dense")
      x = x + t[f"{at}.layer_scale1.lambda1"] * y
      y = linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")
      y = linear(y * (1 + erf(y / np.sqrt(2))) / 2, f"{at}.mlp.fc2")
      x = x + t[f"{at}.layer_scale2.lambda1"] * y
    rows.append(norm(x, "layernorm")[0])
  return np.stack(rows)


def imported(found, model, *, allow=("^params/head/",)):
  shapes = shapes_of(model, (SIDE, SIDE, 3))
  entries = LAYOUT.entries(model, shapes)
  filled = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  return read(entries, LAYOUT.canonical(found), filled, allow=allow)[0]["params"]


def test_the_class_token_is_that_of_a_forward_pass_with_layer_scales():
  model, found = small(), tensors()
  images = np.random.default_rng(1).normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
  with jax.default_matmul_precision("highest"):
    features, _ = model.apply(imported(found, model), {}, jnp.asarray(images))
  np.testing.assert_allclose(features["pooled"], forward(found, images), rtol=2e-5, atol=2e-5)


def test_without_the_scales_the_features_are_others():
  model, found = small(), tensors()
  ones = {key: np.ones_like(x) if "lambda1" in key else x for key, x in found.items()}
  a, b = (imported(one, model)["block1"]["attn"]["proj"]["kernel"] for one in (found, ones))
  assert not np.allclose(a, b)


def test_positions_of_a_larger_grid_are_resized():
  params = imported(tensors(grid=5), small())
  assert params["embed"]["positions"].shape == (1, 10, WIDTH)


def test_a_missing_scale_is_named():
  found = tensors()
  del found["encoder.layer.1.layer_scale2.lambda1"]
  with pytest.raises(CheckpointError, match=r"encoder.layer.1.layer_scale2.lambda1 is missing from the file"):
    imported(found, small())


def test_a_classifier_is_not_expected_in_the_file_unless_it_is_asked_for():
  with pytest.raises(CheckpointError, match=r"classifier\.\w+ is missing from the file, for params/head"):
    imported(tensors(), small(), allow=())


def test_the_full_size_counts_22046976_parameters_in_its_trunk():
  model = models.vit_s16(num_classes=10, **LAYOUT.keywords("vit_s16"))
  params = shapes_of(model, (518, 518, 3))["params"]
  trunk = {name: block for name, block in params.items() if name != "head"}
  assert sum(leaf.size for leaf in jax.tree.leaves(trunk)) == 22_046_976
  assert sum(leaf.size for leaf in jax.tree.leaves(params["head"])) == 3_850

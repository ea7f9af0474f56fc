"""Flax's own vision transformers, rebuilt here from Flax's layers with the names that Flax gives them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.pretrained import LAYOUTS
from jaxtl.pretrained.importing import import_weights
from tests.oracles.cases import random_weights
from tests.pretrained.made_weights import CLASSES, VIT

PARTS = {
  "big_vision": ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
  "augreg": ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
}


class MlpBlock(nn.Module):
  @nn.compact
  def __call__(self, x):
    y = nn.gelu(nn.Dense(4 * x.shape[-1])(x))
    return nn.Dense(x.shape[-1])(y)


class Block(nn.Module):
  parts: tuple[str, ...]

  @nn.compact
  def __call__(self, x):
    norm1, attention, norm2, mlp = self.parts
    y = nn.LayerNorm(name=norm1)(x)
    x = x + nn.MultiHeadDotProductAttention(VIT["num_heads"], name=attention)(y, y)
    return x + MlpBlock(name=mlp)(nn.LayerNorm(name=norm2)(x))


class Positions(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))


class Transformer(nn.Module):
  parts: tuple[str, ...]
  positions: bool

  @nn.compact
  def __call__(self, x):
    if self.positions:
      x = Positions(name="posembed_input")(x)
    for number in range(VIT["depth"]):
      x = Block(self.parts, name=f"encoderblock_{number}")(x)
    return nn.LayerNorm(name="encoder_norm")(x)


class ViT(nn.Module):
  """big_vision gives positions to the patches alone, AugReg to the class token, too."""

  layout: str
  pooling: str

  @nn.compact
  def __call__(self, images):
    patch = (VIT["patch_size"],) * 2
    x = nn.Conv(VIT["width"], patch, strides=patch, padding="VALID", name="embedding")(images)
    x = x.reshape(len(x), -1, VIT["width"])
    if self.layout == "big_vision":
      x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))
    if self.pooling == "token":
      token = self.param("cls", nn.initializers.zeros, (1, 1, VIT["width"]))
      x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
    x = Transformer(PARTS[self.layout], self.layout == "augreg", name="Transformer")(x)
    x = x[:, 0] if self.pooling == "token" else jnp.mean(x, axis=1)
    return nn.Dense(len(CLASSES), name="head")(x)


def flat(tree: Any, before: str = "") -> dict[str, np.ndarray]:
  if not isinstance(tree, dict):
    return {before: np.asarray(tree)}
  return {k: v for key, item in tree.items() for k, v in flat(item, f"{before}/{key}".lstrip("/")).items()}


def original(layout, pooling, size=16):
  """(module, its parameters, random)."""
  module = ViT(layout, pooling)
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
  return module, random_weights(shapes)


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
@pytest.mark.parametrize(
  ("layout", "pooling"), [("big_vision", "token"), ("big_vision", "mean"), ("augreg", "token")]
)
def test_the_imported_model_computes_what_the_original_does(tmp_path, layout, pooling, prefix):
  module, params = original(layout, pooling)
  np.savez(tmp_path / "weights.npz", **{prefix + key: value for key, value in flat(params).items()})
  imported = import_weights(
    tmp_path / "weights.npz",
    model="vit_ti16",
    layout=LAYOUTS[layout],
    keywords=VIT | dict(pooling=pooling),
    classes=CLASSES,
  )
  assert imported.weights.config["model"]["activation"] == "gelu_tanh"
  images = np.random.default_rng(1).standard_normal((4, 16, 16, 3)).astype(np.float32)
  expected = module.apply({"params": params}, images)
  features, _ = imported.model.apply(imported.weights.params, imported.weights.batch_stats, images)
  np.testing.assert_allclose(features["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["big_vision", "augreg"])
def test_the_class_tokens_position_stays_at_another_image_size(tmp_path, layout):
  _, params = original(layout, "token")
  np.savez(tmp_path / "weights.npz", **flat(params))
  imported = import_weights(
    tmp_path / "weights.npz",
    model="vit_ti16",
    layout=LAYOUTS[layout],
    keywords=VIT,
    classes=CLASSES,
    preprocessing=dict(size=32),
  )
  found = imported.weights.params["embed"]["positions"]
  assert found.shape == (1, 17, 8)
  before = 0 if layout == "big_vision" else params["Transformer"]["posembed_input"]["pos_embedding"][0, 0]
  np.testing.assert_array_equal(found[0, 0], np.broadcast_to(before, 8))

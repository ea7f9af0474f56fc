"""A model small enough to be broken in every way: three blocks of one matrix, with a moving mean."""

import jax
import jax.numpy as jnp

from jaxtl.types import Model

BLOCKS = ("stage1", "stage2", "stage3", "head")
WIDTH = 4


def tiny_model(*, num_classes=3):
  """A `Model` of four blocks whose features are `stage1..3` [B, H, W, 4], `pooled` and `logits`."""

  def init(key, images):
    shapes = [(images.shape[-1], WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, num_classes)]
    keys = jax.random.split(key, len(BLOCKS))
    params = {name: {"kernel": jax.random.normal(k, s)} for name, k, s in zip(BLOCKS, keys, shapes)}
    return params, {"stage1": {"mean": jnp.zeros(WIDTH)}}

  def apply(params, batch_stats, images, *, train=False, frozen_stats=False, key=None, start=None, stop=None):
    features, x = {}, images
    for block in BLOCKS[BLOCKS.index(start or BLOCKS[0]) :]:
      if block == stop:
        return {"hidden": x}, batch_stats
      x = jnp.mean(x, axis=(1, 2)) if block == "head" else x
      if block == "head":
        features["pooled"] = x
      x = x @ params[block]["kernel"]
      if block == "stage1":
        mean = jnp.mean(x, axis=(0, 1, 2)) if train else batch_stats["stage1"]["mean"]
        x = x - mean[None, None, None]
        if train and not frozen_stats:
          batch_stats = {"stage1": {"mean": 0.9 * batch_stats["stage1"]["mean"] + 0.1 * mean}}
      x = x if block == "head" else jnp.tanh(x)
      features["logits" if block == "head" else block] = x
    return features, batch_stats

  return Model("tiny", init, apply, BLOCKS)

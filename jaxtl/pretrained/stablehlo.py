"""Export of a weight as a StableHLO program that any XLA runtime can run, without jaxtl and Flax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.data import Preprocessing
from jaxtl.types import Array, Model

PLATFORMS = ("cpu", "cuda", "tpu")


def serialized(model: Model, weights: Weights, preprocessing: Preprocessing) -> bytes:
  """Serialises the program uint8 [b, S, S, 3] -> {"logits" [b, K], "pooled" [b, D]}, for any b.

  The weights are constants of the program, and the normalisation is its first operation, so its inputs are
  resized pixels.

  Args:
    model: a jaxtl model.
    weights: its weights.
    preprocessing: supplies size, mean and standard deviation.
  """
  (batch,) = jax.export.symbolic_shape("b")
  side = preprocessing.size
  images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
  predict = jax.jit(predictor(model, weights, preprocessing))
  return bytes(jax.export.export(predict, platforms=PLATFORMS)(images).serialize())


def predictor(
  model: Model, weights: Weights, preprocessing: Preprocessing
) -> Callable[[Array], dict[str, Array]]:
  """Returns the function that `serialized` exports; its arguments are the same."""
  mean = np.asarray(preprocessing.mean, np.float32)
  std = np.asarray(preprocessing.std, np.float32)

  def predict(images: Array) -> dict[str, Array]:
    x = (images.astype(jnp.float32) / 255 - mean[None, None, None]) / std[None, None, None]
    features, _ = model.apply(weights.params, weights.batch_stats, x)
    return {name: features[name] for name in ("logits", "pooled") if name in features}

  return predict


def description(preprocessing: Preprocessing) -> dict[str, Any]:
  """Describes the preprocessing required before the program and that done inside it."""
  resize = preprocessing.resize_to
  shorter = isinstance(resize, int)
  return {
    "input": f"uint8 [b, {preprocessing.size}, {preprocessing.size}, 3], RGB",
    "exif_orientation": "turn" if preprocessing.upright else "ignore",
    "resize": {
      "shorter_side" if shorter else "height_width": resize if isinstance(resize, int) else list(resize),
      "interpolation": preprocessing.interpolation,
      "antialias": True,
    },
    "center_crop": preprocessing.size if shorter else None,
    "inside_the_program": {
      "scale": "1 / 255",
      "mean": list(preprocessing.mean),
      "std": list(preprocessing.std),
    },
    "outputs": ["logits", "pooled"],
  }

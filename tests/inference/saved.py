"""Small checkpoints for tests of inference."""

from __future__ import annotations

import jax
import numpy as np

from jaxtl import models
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.train.step import shapes_of

CLASSES = ("red", "green", "blue", "black", "white", "grey", "pink")
NORMALIZE = dict(fn=".data.normalize")
RESIZE = dict(fn=".data.resize", size=20)
CROP = dict(fn=".data.center_crop", size=16)
PHOTO = [RESIZE, CROP, NORMALIZE]


def save(folder, *, classes=CLASSES, transforms=PHOTO, size=16, scale=3.0, task=None, shift=0.0):
  """A ResNet-8 of width 4 with random weights, as a checkpoint at `folder`."""
  made = models.resnet8(num_classes=len(classes), width=4)
  shapes = shapes_of(made, (size, size, 3))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: (rng.standard_normal(x.shape) / scale).astype(np.float32), shapes["params"])
  stats = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes["batch_stats"])
  if shift:
    params["head"]["bias"] = params["head"]["bias"] + np.float32(shift)
  task = task or dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))
  config = dict(model=dict(make=".models.resnet8", width=4), task=task, transforms=transforms)
  config |= dict(classes=list(classes), image_shape=[size, size, 3])
  checkpoint.save_weights(Weights(params, stats, config, "memory"), folder)
  return folder

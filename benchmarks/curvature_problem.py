"""The loss whose Hessian `benchmarks/curvature.py` multiplies with: a model, weights and batches of images.

Images are CIFAR-10's training images where their folder is given, else drawn characters, enlarged by
repetition to the model's size. Weights are those of a file in the layout of the model's original, or fresh
ones trained for a few epochs on the same images, so that the spectrum has outliers as a trained network's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import data, losses, models
from jaxtl.pretrained import LAYOUTS, Entry, read
from jaxtl.train.step import shapes_of

EPOCHS, TRAIN_BATCH, RATE = 12, 64, 1e-3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Case:
  """A model, the layout that has its names in torch, its images, and the batch that suits each side best."""

  title: str
  layout: str
  size: int
  batch: int
  torch_batch: int
  keywords: dict[str, Any] = dataclasses.field(default_factory=dict)


CASES = {
  "resnet20": Case("ResNet-20 (CIFAR)", "akamaster", size=32, batch=64, torch_batch=64),
  "vit_ti16": Case("ViT-Ti/16", "timm", size=64, batch=32, torch_batch=128, keywords={"image_size": 64}),
}


def case_of(name: str, batch: int | None) -> Case:
  """A case, with batches of that size on both sides where one is given."""
  if batch is None:
    return CASES[name]
  if batch < 1:
    raise SystemExit(f"--batch is {batch}; write at least 1")
  return dataclasses.replace(CASES[name], batch=batch, torch_batch=batch)


class Problem:
  """A model with its weights on images.

  Args:
    name: of the case.
    count: number of images.
    data_dir: has CIFAR-10 as sheets, None for drawn images.
    weights: an npz in the layout of the case; None trains fresh ones.
    batch: images of a batch on both sides; None has each side's own.
  """

  def __init__(
    self, name: str, count: int, *, data_dir: Path | None, weights: Path | None, batch: int | None = None
  ) -> None:
    self.case = case_of(name, batch)
    self.image, self.label, classes = images(count, self.case.size, data_dir)
    self.classes = classes
    self.model = getattr(models, name)(num_classes=classes, **self.case.keywords)
    self.shapes = shapes_of(self.model, self.image.shape[1:])
    layout = LAYOUTS[self.case.layout]
    self.entries: list[Entry] = layout.entries(self.model, self.shapes)
    if weights is None:
      found = trained(self.model, self.image, self.label)
    else:
      with np.load(weights) as stored:
        found, _ = read(self.entries, layout.canonical(dict(stored)), self.shapes)
    self.params, self.stats = jax.device_put((found["params"], found["batch_stats"]))
    self.loss_fn = summed_loss(self.model, self.stats)

  def batches(self) -> list[Any]:
    """All images, on the device."""
    size = self.case.batch
    return [
      jax.device_put({"image": self.image[i : i + size], "label": self.label[i : i + size]})
      for i in range(0, len(self.image), size)
    ]


def summed_loss(model: Any, stats: Any) -> Callable[..., Any]:
  """(params, batch) -> (sum of the cross-entropy, number of images); statistics are the stored ones."""

  def loss_fn(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    logits = model.apply(params, stats, batch["image"])[0]["logits"]
    return jnp.sum(losses.softmax_cross_entropy(logits, batch["label"])), jnp.float32(len(batch["label"]))

  return loss_fn


def images(count: int, size: int, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray, int]:
  """Float images [N, size, size, 3], labels [N], and the number of classes."""
  if data_dir is None:
    source = data.glyphs(num_examples=count, split="train")
  else:
    source = data.from_sheets(folder="cifar10", split="train", data_dir=data_dir)
  label, pixels = source.fetch(np.arange(count))
  times = size // pixels.shape[1]
  large = np.repeat(np.repeat(pixels, times, axis=1), times, axis=2)
  return normalized(large), label.astype(np.int32), len(source.classes)


def normalized(pixels: np.ndarray) -> np.ndarray:
  """Bytes as the weights expect them."""
  return ((pixels / 255 - MEAN) / STD).astype(np.float32)


def drawn_batches(name: str, count: int, batch: int | None = None, classes: int = 10) -> Iterator[Any]:
  """`count` batches of noise, each made when it is asked for; `batch` images instead of the case's."""
  case = case_of(name, batch)
  for number in range(count):
    rng = np.random.default_rng(number)
    image = rng.standard_normal((case.batch, case.size, case.size, 3), np.float32)
    yield {"image": image, "label": rng.integers(0, classes, case.batch, np.int32)}


def trained(model: Any, image: np.ndarray, label: np.ndarray) -> Any:
  """Weights from a seed, after some epochs of Adam."""
  params, stats = model.init(jax.random.key(0), image[:1])
  tx = optax.adam(RATE)

  def loss(params: Any, stats: Any, x: jax.Array, y: jax.Array) -> Any:
    features, moved = model.apply(params, stats, x, train=True, key=jax.random.key(0))
    return jnp.mean(losses.softmax_cross_entropy(features["logits"], y)), moved

  @jax.jit
  def step(params: Any, stats: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
    gradient, stats = jax.grad(loss, has_aux=True)(params, stats, x, y)
    updates, state = tx.update(gradient, state)
    return optax.apply_updates(params, updates), stats, state

  state = tx.init(params)
  for epoch in range(EPOCHS):
    order = np.random.default_rng(epoch).permutation(len(image))
    for start in range(0, len(order) - TRAIN_BATCH + 1, TRAIN_BATCH):
      taken = order[start : start + TRAIN_BATCH]
      params, stats, state = step(params, stats, state, image[taken], label[taken])
  return {"params": params, "batch_stats": stats}

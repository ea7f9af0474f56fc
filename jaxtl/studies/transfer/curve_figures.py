"""Figures of test losses by epoch."""

from __future__ import annotations

import collections
from collections.abc import Mapping

import numpy as np

from jaxtl.report import canvas as drawing
from jaxtl.report.canvas import Figure
from jaxtl.report.results import Results


def loss_curves(results: Results, target: str) -> Figure | None:
  """Draws the test loss by epoch, and the training loss without augmentation; None without such rows."""
  tested = curves(results, target, "test_loss")
  if not tested:
    return None
  clean = curves(results, target, "clean_train_loss")
  arms = [arm for arm in results.arms if arm in tested]
  with drawing.canvas([3.8], results.arms, shown=arms) as canvas:
    axes = canvas.axes[0]
    for arm in arms:
      color = canvas.color(arm)
      epochs, values = _stacked(tested[arm])
      axes.plot(epochs, values.mean(axis=0), color=color, linewidth=2.0)
      if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
      _, trained = _stacked(clean[arm])
      axes.plot(epochs, trained.mean(axis=0), color=color, linewidth=1.0, linestyle=(0, (4, 2)))
      after = values.mean(axis=0)[1:]
      least = 1 + int(np.argmin(after)) if len(after) else 0
      axes.plot(epochs[least : least + 1], values.mean(axis=0)[least : least + 1], **canvas.marker(arm))
    drawing.log_axis(axes.yaxis)
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy")
  caption = (
    "Solid: test loss, mean over seeds; band: from the least to the most over seeds; dot: the least of the "
    "mean after the first epoch. Dashed: loss on training images without augmentation. Epoch 0 is before the "
    "first step."
  )
  return canvas.figure(f"loss_curves_{target}", f"Loss by epoch on {target}", caption)


def curves(results: Results, target: str, measure: str) -> dict[str, dict[int, np.ndarray]]:
  """Returns arm -> seed -> [epochs, 2] of epoch and value."""
  found: dict[str, dict[int, list[tuple[float, float]]]] = collections.defaultdict(
    lambda: collections.defaultdict(list)
  )
  for row in results.rows:
    if row.get("kind") == "curve" and row["target"] == target:
      found[row["arm"]][row["seed"]].append((row["epoch"], row[measure]))
  return {
    arm: {seed: np.asarray(sorted(points), float) for seed, points in by_seed.items()}
    for arm, by_seed in found.items()
  }


def _stacked(by_seed: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the epochs that all seeds have, and the values [seeds, epochs]."""
  length = min(len(points) for points in by_seed.values())
  points = [found[:length] for found in by_seed.values()]
  return points[0][:, 0], np.stack([found[:, 1] for found in points])

"""What transferability scores cost beside the forward pass that computes their features.

Features are synthetic, with the width of a ResNet-50. All default scores are computed in one process, in the
order of the table, and share one set of statistics: a score that needs an eigendecomposition first pays for
it. Seconds are CPU seconds of all threads, and wall seconds. The forward pass is that of a ResNet-50 at
224 px, timed on one batch. Memory is the peak that NumPy allocates while moments are summed over batches and
scored, for N images and for 4 N. Exits with 1 if a limit is exceeded.

  python benchmarks/selection.py [--images 5000] [--features 2048] [--classes 100] [--no-forward]
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable

import jax
import numpy as np

from jaxtl import metrics, models
from jaxtl.metrics import transferability as t

# Of the forward pass, in CPU seconds; wall seconds of all scores; growth of memory from N to 4 N images.
SHARE, SECONDS, GROWTH = 0.03, 5.0, 1.05


def main() -> int:
  """Times the scores and the forward pass, measures memory, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--images", type=int, default=5000, help="N (default: 5000)")
  parser.add_argument("--features", type=int, default=2048, help="D (default: 2048)")
  parser.add_argument("--classes", type=int, default=100, help="K (default: 100)")
  parser.add_argument("--no-forward", action="store_true", help="only the scores")
  options = parser.parse_args()
  features, labels, logits = example(options.images, options.features, options.classes)
  cpu, wall = timed(scores(features, labels, logits))
  wrong = [] if wall <= SECONDS else [f"all scores take {wall:.1f} s, not {SECONDS:g}"]
  if not options.no_forward:
    forward = forward_seconds() * options.images
    print(f"{'forward pass':24} {forward:8.1f}           the scores are {cpu / forward:.2%} of it")
    wrong += [] if cpu / forward <= SHARE else [f"scores are {cpu / forward:.1%} of the forward pass"]
  peaks = [
    peak_of_moments(num, options.features, options.classes) for num in (options.images, 4 * options.images)
  ]
  print(f"scores from moments: peak of {peaks[0] / 2**20:.0f} MiB, and {peaks[1] / 2**20:.0f} MiB for 4 N")
  wrong += [] if peaks[1] <= GROWTH * peaks[0] else ["memory grows with N"]
  for problem in wrong:
    print(problem)
  return 1 if wrong else 0


def example(num: int, dim: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Rectified features with a decaying spectrum, labels, and logits of 1,000 source classes."""
  rng = np.random.default_rng(0)
  labels = np.arange(num) % classes
  rest = rng.normal(size=(num, dim)) + rng.normal(size=(classes, dim))[labels]
  scale = np.arange(1, dim + 1) ** -0.5
  mixing = rng.normal(size=(dim, dim)) / np.sqrt(dim)
  features = np.maximum((rest * scale) @ mixing * np.sqrt(dim) / 4, 0).astype(np.float32)
  return features, labels, rng.normal(size=(num, 1000)).astype(np.float32)


def scores(features: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> dict[str, Callable[[], object]]:
  """Name -> computation; later ones reuse what earlier ones have left in `shared`."""
  shared: dict[str, t.ClassStatistics] = {}
  nearest: dict[str, t.Neighbours] = {}

  def remember(into: dict, name: str, value: object) -> None:
    into[name] = value

  return {
    "statistics": lambda: remember(shared, "all", t.statistics_of(features, labels)),
    "leep": lambda: t.leep(logits, labels),
    "nce": lambda: t.nce(logits, labels),
    "h_score": lambda: t.h_score(shared["all"]),
    "lfc": lambda: t.lfc(shared["all"]),
    "nc1": lambda: t.nc1(shared["all"]),
    "participation_ratio": lambda: t.participation_ratio(shared["all"]),
    "effective_rank": lambda: t.effective_rank(shared["all"]),
    "logme": lambda: t.logme(shared["all"]),
    "ridge": lambda: t.ridge(features, labels, statistics=shared["all"]),
    "gbc": lambda: t.gbc(t.projected(shared["all"], features, labels)),
    "neighbours": lambda: remember(nearest, "all", t.neighbours(features)),
    "knn, k = 1 and 5": lambda: [t.knn(nearest["all"], labels, k=k) for k in (1, 5)],
    "intrinsic_dimension": lambda: t.intrinsic_dimension(nearest["all"]),
    "sfda": lambda: t.sfda(features, labels, statistics=shared["all"]),
  }


def timed(calls: dict[str, Callable[[], object]]) -> tuple[float, float]:
  """Prints CPU and wall seconds of each call and returns their sums."""
  print(f"{'score':24} {'CPU s':>8} {'wall s':>8}")
  sums = np.zeros(2)
  for name, call in calls.items():
    began = np.array([time.process_time(), time.perf_counter()])
    call()
    taken = np.array([time.process_time(), time.perf_counter()]) - began
    sums += taken
    print(f"{name:24} {taken[0]:8.2f} {taken[1]:8.2f}", flush=True)
  print(f"{'all':24} {sums[0]:8.2f} {sums[1]:8.2f}")
  return float(sums[0]), float(sums[1])


def forward_seconds(batch_size: int = 8, rounds: int = 3) -> float:
  """CPU seconds per image of a ResNet-50 in evaluation mode at 224 px, the least of a few batches."""
  model = models.resnet50(num_classes=1000)
  images = jax.random.normal(jax.random.key(0), (batch_size, 224, 224, 3))
  params, stats = jax.jit(model.init)(jax.random.key(0), images)
  apply = jax.jit(lambda images: model.apply(params, stats, images)[0]["pooled"])
  jax.block_until_ready(apply(images))
  seconds = []
  for _ in range(rounds):
    began = time.process_time()
    jax.block_until_ready(apply(images))
    seconds.append(time.process_time() - began)
  return min(seconds) / batch_size


def peak_of_moments(num: int, dim: int, classes: int, batch_size: int = 500) -> int:
  """Peak bytes of NumPy while batches come and go, and the scores of their moments are computed."""
  rng = np.random.default_rng(0)
  shift, total = np.zeros(dim), None
  tracemalloc.start()
  for first in range(0, num, batch_size):
    labels = (first + np.arange(min(batch_size, num - first))) % classes
    batch = rng.normal(size=(len(labels), dim)) + labels[:, None] / classes
    moments = metrics.moments_of(batch, labels, num_classes=classes, shift=shift)
    total = moments if total is None else metrics.add(total, moments)
  statistics = t.class_statistics(total)
  for score in (t.h_score, t.lfc, t.participation_ratio, t.nc1):
    score(statistics)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return peak


if __name__ == "__main__":
  sys.exit(main())

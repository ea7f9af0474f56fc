"""How fair the order of the training data is: class counts in batches against those of numpy's permutations.

For each size: seeds 0 to 20, epochs 0 to 7, a set sorted by class, ten classes, batches of 32. The number is
the variance of the class counts in the batches of one epoch over the hypergeometric variance, which is 1 on
average for a fair shuffle.
"""

from __future__ import annotations

import numpy as np

from jaxtl.data import train_order

SIZES, SEEDS, EPOCHS = (300, 840, 1000, 3000, 50_000), range(21), range(8)
CLASSES, BATCH = 10, 32


def variance_ratio(shuffled: np.ndarray) -> float:
  """The variance of class counts in the batches of an epoch over that of a fair shuffle."""
  count = len(shuffled)
  labels = np.arange(count) * CLASSES // count
  batches = labels[shuffled[: count // BATCH * BATCH]].reshape(-1, BATCH)
  counts = (batches[:, :, None] == np.arange(CLASSES)).sum(axis=1)
  share = np.bincount(labels, minlength=CLASSES) / count
  fair = BATCH * share * (1 - share) * (count - BATCH) / (count - 1)
  return float(np.mean((counts - BATCH * share) ** 2 / fair))


def ours(count: int, seed: int) -> np.ndarray:
  """[epochs, count]: the order of the training stream."""
  _, examples = train_order(count, batch_size=len(EPOCHS) * count, seed=seed, step=0)
  return examples.reshape(len(EPOCHS), count)


def summary(values: list[float]) -> str:
  return f"{np.mean(values):.3f} ({np.min(values):.2f} to {np.max(values):.2f})"


def main() -> None:
  print(f"jaxtl {'':24}numpy {'':24}{'n':>7}")
  rng = np.random.default_rng(0)
  for count in SIZES:
    drawn = [variance_ratio(epoch) for seed in SEEDS for epoch in ours(count, seed)]
    fair = [variance_ratio(rng.permutation(count)) for _ in drawn]
    print(f"{summary(drawn):30}{summary(fair):30}{count:7}", flush=True)


if __name__ == "__main__":
  main()

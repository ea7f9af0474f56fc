"""Batches of prepared images: read ahead in threads, and padded to one size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

T = TypeVar("T")
R = TypeVar("R")

_MOST_THREADS = 16


def padded_size(count: int, batch_size: int) -> int:
  """Returns the rows of every batch for `count` images: the smallest power of two that holds them.

  It is at most `batch_size`. A single image is therefore not padded, and a list of any length needs one of
  few compiled programs.
  """
  return min(batch_size, 1 << max(count - 1, 0).bit_length())


def padded(rows: Sequence[np.ndarray], size: int) -> np.ndarray:
  """Stacks images to [size, H, W, 3]; the rows beyond the last are zero."""
  batch = np.zeros((size, *rows[0].shape), rows[0].dtype)
  batch[: len(rows)] = rows
  return batch


def ahead(prepare: Callable[[T], R], items: Sequence[T], *, size: int) -> Iterator[list[R]]:
  """Yields the results for each `size` items in turn, while threads prepare the next ones."""
  threads = min(_MOST_THREADS, os.cpu_count() or 1, max(len(items), 1))
  with ThreadPoolExecutor(threads) as pool:
    running: list[Future[R]] = []
    for start in range(0, len(items), size):
      following = [pool.submit(prepare, item) for item in items[start : start + size]]
      if running:
        yield [future.result() for future in running]
      running = following
    if running:
      yield [future.result() for future in running]

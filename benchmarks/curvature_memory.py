"""Prints the peak of this process's memory, in MiB, at one Hessian product over N batches made one by one.

python benchmarks/curvature_memory.py MODEL N [IMAGES OF A BATCH]
"""

from __future__ import annotations

import functools
import resource
import sys
from pathlib import Path

import jax
from curvature_problem import CASES, drawn_batches, summed_loss

from jaxtl import models, tree
from jaxtl.curvature import hvp_over_batches


def peak() -> float:
  """MiB. The kernel's own mark where there is one: `ru_maxrss` of a child begins with its parent's."""
  status = Path("/proc/self/status")
  if status.exists():
    found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(found.split()[1]) / 1024
  scale = 1024 if sys.platform == "linux" else 1024**2
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def main(name: str, count: int, batch: int | None = None) -> None:
  """One product at fresh weights."""
  model = getattr(models, name)(num_classes=10, **CASES[name].keywords)
  shape = (1, CASES[name].size, CASES[name].size, 3)
  params, stats = model.init(jax.random.key(0), jax.numpy.zeros(shape))
  loss_fn = summed_loss(model, stats)
  matvec = hvp_over_batches(loss_fn, params, functools.partial(drawn_batches, name, count, batch))
  jax.block_until_ready(matvec(tree.random_like(jax.random.key(1), params)))
  print(f"{peak():.1f}")


if __name__ == "__main__":
  main(sys.argv[1], *map(int, sys.argv[2:]))

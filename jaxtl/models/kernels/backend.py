"""Whether the kernels of this package use their forms for XLA's CPU backend."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PORTABLE = contextvars.ContextVar("portable", default=False)


def is_cpu() -> bool:
  """Returns whether a kernel should take its form for the CPU."""
  return jax.default_backend() == "cpu" and not _PORTABLE.get()


@contextlib.contextmanager
def portable() -> Iterator[None]:
  """Traces models with JAX's own operations on every backend.

  The forms for the CPU pad channels and write depthwise convolutions as sums. That suits neither a program
  for another runtime nor a count of the arithmetic. A function that was already compiled keeps its form.
  """
  token = _PORTABLE.set(True)
  try:
    yield
  finally:
    _PORTABLE.reset(token)

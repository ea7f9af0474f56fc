"""One function in every variant of chex: with and without `jit`, and over devices."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxtl.testing.claims import from_extra


def over_variants(function: Callable[..., Any], *args: Any) -> Iterator[tuple[str, Any]]:
  """Calls a function in each variant of `chex.variants`, outside a test case.

  Args:
    function: pure, of arrays.
    *args: its arguments.

  Yields:
    (the variant in words, the result): compiled, not compiled, with arguments on the device and with NumPy
    arguments, and by `pmap` on each device if there are several.

  Raises:
    InputError: chex is not installed.
  """
  with from_extra():
    import chex

  def body(case: Any) -> None:
    case.result = case.variant(function)(*args)

  several = jax.device_count() > 1
  for test in chex.all_variants(body, with_pmap=several):
    case = types.SimpleNamespace()
    test(case)
    yield case.variant.type.name.lower().replace("_", " "), case.result

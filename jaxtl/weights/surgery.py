"""Fitting a trained tree into another model's: matched by path, every mismatch reported, none silent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxtl import tree
from jaxtl.config import first_few
from jaxtl.errors import CheckpointError
from jaxtl.types import Params


def match(trained: Params, fresh: Params, *, allow: Sequence[str] = ()) -> Params:
  """`trained` in the structure of `fresh`, leaf by leaf by path.

  Args:
    trained: the tree to take values from.
    fresh: the tree whose paths and shapes are wanted.
    allow: path regexes of leaves that may keep their fresh value, and of trained leaves that may be dropped:
      usually the head, `(r"^head/",)`.

  Raises:
    CheckpointError: a leaf is missing, left over, or of another shape, and `allow` does not name it.
  """
  source = dict(zip(tree.paths(trained), jax.tree.leaves(trained), strict=True))
  wanted = dict(zip(tree.paths(fresh), jax.tree.leaves(fresh), strict=True))
  problems = [
    f"{path} is not in the checkpoint" for path in wanted if path not in source and not _any(allow, path)
  ]
  problems += [
    f"{path} is not in the model" for path in source if path not in wanted and not _any(allow, path)
  ]
  problems += [
    f"{path} has shape {tuple(source[path].shape)}, and {tuple(wanted[path].shape)} in the model"
    for path in wanted
    if path in source and source[path].shape != wanted[path].shape and not _any(allow, path)
  ]
  if problems:
    raise CheckpointError(f"the checkpoint does not fit the model: {first_few(problems)}")

  def take(path: str, leaf: Any) -> Any:
    kept = source.get(path)
    return leaf if kept is None or _any(allow, path) else kept

  return tree.map_with_path(take, fresh)


def _any(patterns: Sequence[str], path: str) -> bool:
  return any(re.search(pattern, path) for pattern in patterns)

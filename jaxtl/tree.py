"""Trees of arrays as vectors, and the names of their leaves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import ConfigError, listed
from jaxtl.types import Array

Tree = Any


def add(a: Tree, b: Tree) -> Tree:
  """Returns a + b, leaf by leaf."""
  return jax.tree.map(jnp.add, a, b)


def sub(a: Tree, b: Tree) -> Tree:
  """Returns a - b, leaf by leaf."""
  return jax.tree.map(jnp.subtract, a, b)


def scale(factor: Array | float, a: Tree) -> Tree:
  """Returns factor * a; each leaf keeps its type."""
  return jax.tree.map(lambda x: jnp.asarray(factor * x, x.dtype), a)


def mul(a: Tree, b: Tree) -> Tree:
  """Returns a * b, leaf by leaf."""
  return jax.tree.map(jnp.multiply, a, b)


def lerp(a: Tree, b: Tree, alpha: Array | float) -> Tree:
  """Returns (1 - alpha) a + alpha b, exact at both ends; in floating point, a + alpha (b - a) is not."""
  return jax.tree.map(lambda x, y: jnp.asarray((1 - alpha) * x + alpha * y, x.dtype), a, b)


def dot(a: Tree, b: Tree) -> Array:
  """Returns <a, b> over the whole tree, summed in float32 or wider."""
  products = jax.tree.map(lambda x, y: jnp.sum(wide(x) * wide(y)), a, b)
  return sum(jax.tree.leaves(products), start=jnp.float32(0))


def norm(a: Tree) -> Array:
  """Returns the Euclidean norm over the whole tree."""
  return jnp.sqrt(dot(a, a))


def wide(x: Array) -> Array:
  """Casts an array to the type that sums are taken in: float32, or its own type if that is wider."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def zeros_like(a: Tree) -> Tree:
  """Returns a tree of zeros with the shapes and types of `a`."""
  return jax.tree.map(jnp.zeros_like, a)


def random_like(key: Array, a: Tree, *, sampler: Callable[..., Array] = jax.random.normal) -> Tree:
  """Draws independent values from `sampler(key, shape, dtype)`, with one key for each leaf."""
  leaves, structure = jax.tree.flatten(a)
  keys = jax.random.split(key, len(leaves))
  draws = [sampler(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
  return jax.tree.unflatten(structure, draws)


def size(a: Tree) -> int:
  """Returns the number of scalars in the tree."""
  return sum(x.size for x in jax.tree.leaves(a))


def paths(a: Tree) -> list[str]:
  """Returns the name of each leaf, as `stage1_block1/conv1/kernel`, in the order of `jax.tree.leaves`."""
  return [_join(path) for path, _ in jax.tree_util.tree_leaves_with_path(a)]


def map_with_path(fn: Callable[..., Any], a: Tree, *rest: Tree) -> Tree:
  """Maps `fn(path, leaf, *leaves of rest)` over every leaf."""
  return jax.tree_util.tree_map_with_path(lambda path, *x: fn(_join(path), *x), a, *rest)


def label(a: Tree, rules: Sequence[tuple[str, Any]], *, needed: bool = True) -> Tree:
  """Labels each leaf with the value of the first rule `(path regex, value)` that matches its path.

  Args:
    needed: False allows rules that match nothing, for a tree that is only a part.

  Raises:
    ConfigError: a pattern is not a regex, no rule matches a leaf, or a rule is the first match of no leaf: a
      rule that does nothing is nearly always a misspelt path.
  """
  used = set()
  regexes = [compiled(pattern) for pattern, _ in rules]

  def first(path: str, _: Any) -> Any:
    for number, (_, value) in enumerate(rules):
      if regexes[number].search(path):
        used.add(number)
        return value
    raise ConfigError(f"no rule matches the parameter {path!r}; the rules are {[p for p, _ in rules]}")

  labels = map_with_path(first, a)
  idle = [pattern for number, (pattern, _) in enumerate(rules) if number not in used]
  if idle and needed:
    raise ConfigError(f"the rule {idle[0]!r} matches no parameter; {_named(a)}")
  return labels


def matches(a: Tree, where: str | None, *, needed: bool = True) -> Tree:
  """Returns a tree of booleans: whether the regex `where` matches the leaf's path; all True for None.

  Args:
    needed: False allows a regex that matches nothing, for a tree that is only a part.

  Raises:
    ConfigError: nothing matches, or `where` is not a regex.
  """
  if where is None:
    return jax.tree.map(lambda _: True, a)
  regex = compiled(where)
  found = map_with_path(lambda path, _: bool(regex.search(path)), a)
  if needed and not any(jax.tree.leaves(found)):
    raise ConfigError(f"{where!r} matches no parameter; {_named(a)}")
  return found


def select(a: Tree, where: str) -> dict[str, Array]:
  """Returns the leaves whose path matches the regex `where`, as {path: leaf}.

  Raises:
    ConfigError: nothing matches, or `where` is not a regex.
  """
  chosen = jax.tree.leaves(matches(a, where))
  return {path: leaf for path, leaf, kept in zip(paths(a), jax.tree.leaves(a), chosen, strict=True) if kept}


def replace(a: Tree, leaves: Mapping[str, Array]) -> Tree:
  """Replaces some leaves of the tree by those of {path: leaf}; the inverse of `select`."""
  return map_with_path(lambda path, leaf: leaves.get(path, leaf), a)


def first_nonfinite(a: Tree) -> str | None:
  """Returns the path of the first leaf with a NaN or an infinity; None if all are finite."""
  good = jax.device_get(_finite(a))
  return next((path for path, finite in zip(paths(a), good, strict=True) if not finite), None)


@jax.jit
def _finite(a: Tree) -> list[Array]:
  return [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(a)]


def _named(a: Tree) -> str:
  """Describes how the parameters are named, for a message about a name that none has."""
  names = paths(a)
  blocks = list(dict.fromkeys(name.partition("/")[0] for name in names))
  return f"parameters are named like {', '.join(names[:3])}, in the blocks {listed(blocks)}"


def compiled(pattern: str) -> re.Pattern[str]:
  """Compiles a regex for paths.

  Raises:
    ConfigError: it is not a regex.
  """
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ConfigError(f"{pattern!r} is not a regex: {error}; escape a literal character with \\") from error


def _join(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")

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
  """a + b, leaf by leaf."""
  return jax.tree.map(jnp.add, a, b)


def sub(a: Tree, b: Tree) -> Tree:
  """a - b, leaf by leaf."""
  return jax.tree.map(jnp.subtract, a, b)


def scale(factor: Array | float, a: Tree) -> Tree:
  """factor * a, each leaf keeping its type."""
  return jax.tree.map(lambda x: jnp.asarray(factor * x, x.dtype), a)


def mul(a: Tree, b: Tree) -> Tree:
  """a * b, leaf by leaf."""
  return jax.tree.map(jnp.multiply, a, b)


def lerp(a: Tree, b: Tree, alpha: Array | float) -> Tree:
  """(1 - alpha) a + alpha b: exact at both ends, which a + alpha (b - a) is not in floating point."""
  return jax.tree.map(lambda x, y: jnp.asarray((1 - alpha) * x + alpha * y, x.dtype), a, b)


def dot(a: Tree, b: Tree) -> Array:
  """<a, b> over the whole tree, summed in float32 or wider."""
  products = jax.tree.map(lambda x, y: jnp.sum(wide(x) * wide(y)), a, b)
  return sum(jax.tree.leaves(products), start=jnp.float32(0))


def norm(a: Tree) -> Array:
  """The Euclidean norm over the whole tree."""
  return jnp.sqrt(dot(a, a))


def wide(x: Array) -> Array:
  """An array in float32, or in its own type where that is wider: what sums are taken in."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def zeros_like(a: Tree) -> Tree:
  """A tree of zeros with the shapes and types of `a`."""
  return jax.tree.map(jnp.zeros_like, a)


def random_like(key: Array, a: Tree, *, sampler: Callable[..., Array] = jax.random.normal) -> Tree:
  """Independent draws from `sampler(key, shape, dtype)`, one key for each leaf."""
  leaves, structure = jax.tree.flatten(a)
  keys = jax.random.split(key, len(leaves))
  draws = [sampler(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
  return jax.tree.unflatten(structure, draws)


def size(a: Tree) -> int:
  """The number of scalars in the tree."""
  return sum(x.size for x in jax.tree.leaves(a))


def paths(a: Tree) -> list[str]:
  """The name of each leaf, `stage1_block1/conv1/kernel`, in the order of `jax.tree.leaves`."""
  return [_join(path) for path, _ in jax.tree_util.tree_leaves_with_path(a)]


def map_with_path(fn: Callable[..., Any], a: Tree, *rest: Tree) -> Tree:
  """`fn(path, leaf, *leaves of rest)` at every leaf."""
  return jax.tree_util.tree_map_with_path(lambda path, *x: fn(_join(path), *x), a, *rest)


def label(a: Tree, rules: Sequence[tuple[str, Any]], *, needed: bool = True) -> Tree:
  """The value of the first rule `(path regex, value)` that finds each leaf's path.

  Args:
    needed: False lets rules find nothing, for a tree that is only a part.

  Raises:
    ConfigError: a pattern that is no regex, a leaf that no rule finds, or a rule that finds no leaf before
      another rule does: a rule that does nothing is nearly always a misspelt path.
  """
  used = set()
  regexes = [_compiled(pattern) for pattern, _ in rules]

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
  """True at the leaves whose path the regex `where` finds; everywhere where it is None.

  Args:
    needed: False lets it find nothing, for a tree that is only a part.

  Raises:
    ConfigError: nothing matches, or `where` is no regex.
  """
  if where is None:
    return jax.tree.map(lambda _: True, a)
  regex = _compiled(where)
  found = map_with_path(lambda path, _: bool(regex.search(path)), a)
  if needed and not any(jax.tree.leaves(found)):
    raise ConfigError(f"{where!r} matches no parameter; {_named(a)}")
  return found


def select(a: Tree, where: str) -> dict[str, Array]:
  """The leaves whose path the regex `where` finds, as {path: leaf}.

  Raises:
    ConfigError: nothing matches, or `where` is no regex.
  """
  chosen = jax.tree.leaves(matches(a, where))
  return {path: leaf for path, leaf, kept in zip(paths(a), jax.tree.leaves(a), chosen, strict=True) if kept}


def replace(a: Tree, leaves: Mapping[str, Array]) -> Tree:
  """The tree with some leaves replaced by those of {path: leaf}; the inverse of `select`."""
  return map_with_path(lambda path, leaf: leaves.get(path, leaf), a)


def first_nonfinite(a: Tree) -> str | None:
  """The path of the first leaf with a NaN or an infinity; None where all are finite."""
  good = jax.device_get(_finite(a))
  return next((path for path, finite in zip(paths(a), good, strict=True) if not finite), None)


@jax.jit
def _finite(a: Tree) -> list[Array]:
  return [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(a)]


def _named(a: Tree) -> str:
  """What the parameters are called, for who wrote a name that none has."""
  names = paths(a)
  blocks = list(dict.fromkeys(name.partition("/")[0] for name in names))
  return f"parameters are named like {', '.join(names[:3])}, in the blocks {listed(blocks)}"


def _compiled(pattern: str) -> re.Pattern[str]:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ConfigError(f"{pattern!r} is not a regex: {error}; escape a literal character with \\") from error


def _join(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")

"""Declarations of a transform about itself, and checks of a list of transforms that need no image.

A declaration is made with `declares`. It lets a mistake in a config be reported before any data are opened,
and lets a task refuse rows that it cannot use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from jaxtl.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
Transform = Callable[..., Any]

# A transform may give a row these, beyond its image and the targets of the source.
MIXED_LABELS = "mixed_labels"  # `label_b` and `weight`, or `label` as a distribution
VIEWS = "views"  # `views`: further versions of the image


def declares(
  *,
  check: Callable[..., None] | None = None,
  gives: Sequence[str] = (),
  even_rows: bool = False,
  maps_views: bool = False,
) -> Callable[[F], F]:
  """Returns a decorator that attaches declarations to a transform.

  Args:
    check: takes all settings of the transform as keywords and raises ConfigError for bad ones.
    gives: `MIXED_LABELS` or `VIEWS`, if the transform adds them to its rows.
    even_rows: a batch transform that leaves no row without a partner.
    maps_views: the transform treats `views` as it treats `image`, so it may follow one that gives views.
  """

  def declare(function: F) -> F:
    declared = {"check": check, "gives": tuple(gives), "even_rows": even_rows, "maps_views": maps_views}
    vars(function).update(declared)
    return function

  return declare


def check_transforms(
  transforms: Sequence[Transform], batch_transforms: Sequence[Transform] = (), *, rows: int | None = None
) -> set[str]:
  """Checks the settings and the order of transforms, without an image.

  Args:
    transforms: those of an example, with their keywords bound.
    batch_transforms: those of a batch.
    rows: number of rows of a batch on one process; None skips the check of it.

  Returns:
    What the transforms give in total: `MIXED_LABELS`, `VIEWS`.

  Raises:
    ConfigError: a setting is out of range, a transform would change the image but not its views, labels
      would be mixed twice or together with views, or the number of rows is odd where pairs are needed.
  """
  for transform in _all(*transforms, *batch_transforms):
    check = getattr(function_of(transform), "check", None)
    if check is not None:
      check(**_settings(transform))
    if rows is not None and rows % 2 and getattr(function_of(transform), "even_rows", False):
      raise ConfigError(
        f"{_name(transform)} pairs the rows of a batch, and each process gets {rows} rows; "
        "expected an even number (change batch_size)"
      )
  _check_views(transforms)
  mixing = [_name(transform) for transform in batch_transforms if MIXED_LABELS in gives(transform)]
  if len(mixing) > 1:
    raise ConfigError(
      f"{mixing[0]} and {mixing[1]} would mix the labels twice; give one of them, or draw one for each batch "
      "with one_of_batch"
    )
  given = set().union(*map(gives, (*transforms, *batch_transforms)))
  if given >= {VIEWS, MIXED_LABELS}:
    first = next(_name(transform) for transform in transforms if VIEWS in gives(transform))
    raise ConfigError(
      f"{mixing[0]} mixes images, but not the views of {first}; leave one of the two transforms out"
    )
  return given


def gives(transform: Transform) -> set[str]:
  """Returns what a transform adds to its rows: a set of `MIXED_LABELS` and `VIEWS`."""
  return {name for one in _all(transform) for name in getattr(function_of(one), "gives", ())}


def function_of(transform: Transform) -> Transform:
  """Returns the function of a transform without the keywords that `functools.partial` binds."""
  return getattr(transform, "func", transform)


def _check_views(transforms: Sequence[Transform]) -> None:
  giver = ""
  for transform in transforms:
    if giver and not getattr(function_of(transform), "maps_views", False):
      raise ConfigError(
        f"{_name(transform)} comes after {giver} and would change the image but not its views; "
        f"only normalize may follow {giver}"
      )
    if VIEWS in gives(transform):
      giver = _name(transform)


def _all(*transforms: Transform) -> Iterator[Transform]:
  """Yields transforms and, for a transform that chooses between others, those others."""
  for transform in transforms:
    yield transform
    yield from _all(*(getattr(transform, "keywords", {}).get("transforms", ())))


def _settings(transform: Transform) -> dict[str, Any]:
  parameters = inspect.signature(transform).parameters.values()
  return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


def _name(transform: Transform) -> str:
  function = function_of(transform)
  return str(getattr(function, "__name__", function))

"""Checks of settings that several transforms share."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtl.errors import ConfigError

Fill = float | Sequence[float]


def check_probability(name: str, **settings: float) -> None:
  """Raises ConfigError unless the settings of the transform `name` are probabilities."""
  for setting, value in settings.items():
    if not 0 <= value <= 1:
      raise ConfigError(f"{name} {setting} is {value:g}; expected 0 to 1")


def check_fill(name: str, fill: Fill) -> None:
  """Raises ConfigError unless the fill is one number or one for each of the three channels."""
  if not isinstance(fill, (int, float)) and len(fill) != 3:
    raise ConfigError(
      f"{name} fill is {list(fill)}; expected one number, or three (for example [123.675, 116.28, 103.53])"
    )


def check_alpha(name: str, *, off: str = "", **settings: float) -> None:
  """Raises ConfigError unless the parameters of a Beta or Dirichlet distribution are above 0."""
  for setting, value in settings.items():
    if not 0 < value < float("inf"):
      raise ConfigError(f"{name} {setting} is {value:g}; expected a number above 0{off}")

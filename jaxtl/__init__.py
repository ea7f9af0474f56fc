"""Tools to measure what makes pre-trained weights good for transfer, and to make them better.

Subpackages load when they are first used, so that `import jaxtl` loads neither TensorFlow nor Flax.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_SUBPACKAGES = (
  "boxes",
  "checkpoints",
  "config",
  "curvature",
  "data",
  "errors",
  "evaluation",
  "inference",
  "losses",
  "measure",
  "metrics",
  "models",
  "optim",
  "pretrained",
  "report",
  "runner",
  "selection",
  "studies",
  "tasks",
  "testing",
  "train",
  "tree",
  "types",
  "weights",
  "zero_shot",
)
__all__ = ["__version__", "load", *_SUBPACKAGES]


def __getattr__(name: str) -> Any:
  if name == "load":
    return importlib.import_module("jaxtl.inference").load
  if name in _SUBPACKAGES:
    return importlib.import_module(f"jaxtl.{name}")
  raise AttributeError(f"module 'jaxtl' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted(__all__)

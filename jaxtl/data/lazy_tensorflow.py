"""TensorFlow for input only: imported on first use, with little logging and accelerators left to JAX."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from jaxtl.imports import without_collection

if TYPE_CHECKING:
  import tensorflow as tf


class _TensorFlow:
  """The module `tensorflow`, imported when one of its names is first used.

  The import takes seconds, and a command that only rejects a mistake in a config does not need it.
  """

  def __getattr__(self, name: str) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Otherwise TensorFlow logs on every import that oneDNN may round differently; no input operation uses
    # oneDNN.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with _without_keras(), without_collection():
      module = importlib.import_module("tensorflow")
    hide_accelerators(module)
    # Later lookups then bypass __getattr__.
    self.__dict__.update({key: value for key, value in vars(module).items() if not key.startswith("__")})
    return getattr(module, name)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
  """Keeps TensorFlow from importing Keras, and with it scikit-learn and matplotlib where they are installed.

  TensorFlow imports Keras's optimizers in a `try`, so that saved models can name them. That is a third of the
  time of its import. `tf.keras` still works: it is imported when it is first used.
  """
  optimizers = "keras.src.optimizers"
  if optimizers in sys.modules:
    yield
    return
  sys.modules[optimizers] = None  # type: ignore[assignment]  # the import system then raises ImportError
  try:
    yield
  finally:
    del sys.modules[optimizers]


def hide_accelerators(tensorflow: Any) -> None:
  """Hides GPUs and TPUs from TensorFlow, which would otherwise reserve their memory.

  Raises:
    RuntimeError: TensorFlow has already started on an accelerator.
  """
  for kind in ("GPU", "TPU"):
    if tensorflow.config.list_physical_devices(kind):
      tensorflow.config.set_visible_devices([], kind)


if not TYPE_CHECKING:
  tf = _TensorFlow()


def no_autograph(function: Any) -> Any:
  """Marks `function` as not to be rewritten by tf.data: it holds TensorFlow operations only."""
  return tf.autograph.experimental.do_not_convert(function)


def by_python(function: Callable[[bytes], Any], encoded: tf.Tensor, types: Any) -> Any:
  """Calls a Python function on an encoded image; returns tensors of the given types, without shapes."""

  def call(data: Any) -> Any:
    # Outside a graph, TensorFlow passes an array that holds the bytes.
    return function(data if isinstance(data, bytes) else data.item())

  return tf.numpy_function(call, [encoded], types, stateful=False)


__all__ = ["by_python", "hide_accelerators", "no_autograph", "tf"]

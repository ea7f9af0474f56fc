"""TensorFlow for input only: quiet, blind to accelerators, which belong to JAX, imported at its first use."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import tensorflow as tf


class _TensorFlow:
  """The module `tensorflow`, imported at the first use of a name in it.

  The import takes seconds, and a command that refuses a mistake in a config needs nothing of it.
  """

  def __getattr__(self, name: str) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Without this TensorFlow announces on every import that oneDNN may round differently; no input operation
    # uses it.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    module = importlib.import_module("tensorflow")
    hide_accelerators(module)
    # Further names are found without coming here.
    self.__dict__.update({key: value for key, value in vars(module).items() if not key.startswith("__")})
    return getattr(module, name)


def hide_accelerators(tensorflow: Any) -> None:
  """Take GPUs and TPUs out of TensorFlow's sight; it would otherwise reserve their memory.

  Raises:
    RuntimeError: TensorFlow has already started on an accelerator.
  """
  for kind in ("GPU", "TPU"):
    if tensorflow.config.list_physical_devices(kind):
      tensorflow.config.set_visible_devices([], kind)


if not TYPE_CHECKING:
  tf = _TensorFlow()


def no_autograph(function: Any) -> Any:
  """`function` for tf.data as it is: it holds TensorFlow operations only, and nothing is to be rewritten."""
  return tf.autograph.experimental.do_not_convert(function)


def by_python(function: Callable[[bytes], Any], encoded: tf.Tensor, types: Any) -> Any:
  """Calls a Python function on an encoded image; returns tensors of these types, without shapes."""

  def call(data: Any) -> Any:
    # Outside a graph TensorFlow gives an array that holds the bytes.
    return function(data if isinstance(data, bytes) else data.item())

  return tf.numpy_function(call, [encoded], types, stateful=False)


__all__ = ["by_python", "hide_accelerators", "no_autograph", "tf"]

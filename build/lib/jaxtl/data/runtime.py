"""TensorFlow for input only: quiet, and blind to accelerators, which belong to JAX."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Without this TensorFlow announces on every import that oneDNN may round differently; no input operation uses
# it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf


def hide_accelerators() -> None:
  """Take GPUs and TPUs out of TensorFlow's sight; it would otherwise reserve their memory.

  Raises:
    RuntimeError: TensorFlow has already started on an accelerator.
  """
  for kind in ("GPU", "TPU"):
    if tf.config.list_physical_devices(kind):
      tf.config.set_visible_devices([], kind)


hide_accelerators()

__all__ = ["hide_accelerators", "tf"]

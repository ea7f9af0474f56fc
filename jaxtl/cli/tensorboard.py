"""`jaxtl tensorboard`: opens the curves of a run in TensorBoard, which is a program of its own."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import metadata
from typing import NoReturn

from jaxtl.errors import InputError


def tensorboard(options: argparse.Namespace) -> NoReturn:
  """Runs `jaxtl tensorboard`: becomes TensorBoard, which reads the folder while a run extends it.

  Raises:
    InputError: the folder has no events, or TensorBoard is not installed.
  """
  run = options.run
  if not run.is_dir():
    raise InputError(f"no folder {run}; give the folder of a run, or one of several runs (for example runs)")
  if next(run.rglob("events.out.tfevents.*"), None) is None:
    raise InputError(f"{run} has no TensorBoard events yet; a run writes them from its first logged step")
  try:
    metadata.version("tensorboard")
  except metadata.PackageNotFoundError:
    raise InputError(
      "the package tensorboard is missing; pip install 'jaxtl[tensorboard]', or read metrics.jsonl"
    ) from None
  # -P: a folder called tensorboard in the current one is not the package.
  command = [sys.executable, "-P", "-m", "tensorboard.main", "--logdir", str(run)]
  for name in ("host", "port"):
    if (value := getattr(options, name)) is not None:
      command.append(f"--{name}={value}")
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, command)

"""`jaxtl ckpt`: describes, verifies and compares checkpoints."""

from __future__ import annotations

import argparse

from jaxtl.checkpoints import inspection
from jaxtl.cli.output import show
from jaxtl.errors import CheckpointError, StorageError


def ckpt_inspect(options: argparse.Namespace) -> None:
  """Runs `jaxtl ckpt inspect`: describes what a checkpoint holds, from its manifest alone."""

  show(inspection.describe(options.checkpoint))


def ckpt_verify(options: argparse.Namespace) -> int:
  """Runs `jaxtl ckpt verify`: checks every file and array of a checkpoint.

  Returns:
    5 if a step is damaged or unreadable, else 2 if one has another format, else 0.
  """

  verdicts = []
  for verdict in inspection.verify(options.path):
    verdicts.append(verdict)
    show(verdict, flush=True)
  kinds = {verdict.kind for verdict in verdicts}
  if kinds & {"damaged", "unread"}:
    return StorageError.code
  return CheckpointError.code if "unknown" in kinds else 0


def ckpt_diff(options: argparse.Namespace) -> int:
  """Runs `jaxtl ckpt diff`; like diff, it returns 1 if the two differ."""

  lines = inspection.differences(options.checkpoint, options.other)
  show("\n".join(lines) or "equal: config and every array")
  return 1 if lines else 0

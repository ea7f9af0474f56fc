"""`jaxtl ckpt`: what checkpoints hold, whether they are whole, and how two differ."""

from __future__ import annotations

import argparse

from jaxtl.checkpoints import inspection
from jaxtl.cli.output import show
from jaxtl.errors import CheckpointError, StorageError


def ckpt_inspect(options: argparse.Namespace) -> None:
  """`jaxtl ckpt inspect`: what a checkpoint holds, by its manifest alone."""

  show(inspection.describe(options.checkpoint))


def ckpt_verify(options: argparse.Namespace) -> int:
  """`jaxtl ckpt verify`: 5 where a step is damaged or cannot be read, else 2 where one has another format."""

  verdicts = []
  for verdict in inspection.verify(options.path):
    verdicts.append(verdict)
    show(verdict, flush=True)
  kinds = {verdict.kind for verdict in verdicts}
  if kinds & {"damaged", "unread"}:
    return StorageError.code
  return CheckpointError.code if "unknown" in kinds else 0


def ckpt_diff(options: argparse.Namespace) -> int:
  """`jaxtl ckpt diff`: 1 where they differ, as diff has it."""

  lines = inspection.differences(options.checkpoint, options.other)
  show("\n".join(lines) or "equal: config and every array")
  return 1 if lines else 0

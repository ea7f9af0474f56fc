"""Trains a method in parts, with a new diagnosis before each later part.

The paper diagnoses once, before the post-training. Parts account for the fact that a layer's room for
improvement changes while it is used up. Each part is a separate training. It has a new optimiser state,
because the updated weights may differ, and a schedule that starts over. Its batches and noise differ from
those of all other parts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.host.remember import remember
from jaxtl.measure.layer_diagnosis import chosen
from jaxtl.optim import steps_of
from jaxtl.train.post_training import PostTraining, post_train
from jaxtl.train.runtime import Runtime
from jaxtl.train.training import Trained
from jaxtl.types import Row

Blocks = tuple[list[str] | None, list[str] | None]
_LOSS = "eval/validation/cross_entropy"
# The difference between the seeds of consecutive parts; seeds of runs are far smaller.
_APART = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class PostTrainingStage:
  """A finished part of a method's training.

  Attributes:
    settings: its training.
    blocks: the blocks that it perturbed and updated; None if the rule names them itself.
    trained: its result.
    folder: folder of its run.
    begin: number of steps of all previous parts.
  """

  settings: PostTraining
  blocks: Blocks
  trained: Trained
  folder: Path
  begin: int

  @property
  def end(self) -> int:
    """Number of steps of all parts up to and including this one."""
    return self.begin + self.trained.total_steps

  def losses(self) -> dict[int, float]:
    """Returns the validation losses of existing checkpoints by step, counted over all parts."""
    there = set(checkpoint.steps_in(self.folder / checkpoint.FOLDER))
    found = {int(row["step"]): row[_LOSS] for row in self.trained.history if _LOSS in row}
    return {self.begin + step: loss for step, loss in found.items() if step in there}

  def load(self, step: int) -> Weights:
    """Loads the checkpoint of a step, counted over all parts."""
    return checkpoint.load(self.folder / checkpoint.FOLDER / str(step - self.begin))


def ends(epochs: float, every: float | None, *, num_examples: int, batch_size: int) -> list[int]:
  """Returns the step after which each part ends; the last part may be shorter.

  Args:
    epochs: epochs of all parts together.
    every: epochs per part; None, or a value not below `epochs`, means one part. A value below one step
      becomes one step.
    num_examples, batch_size: the training data.
  """
  count = 1 if every is None else max(math.ceil(epochs / every - 1e-9), 1)
  spans = [epochs, *(number * (every or 0.0) for number in range(1, count))]
  return sorted({steps_of(span, steps_per_epoch=num_examples / batch_size) for span in spans})


def split(settings: PostTraining, every: float | None, *, num_examples: int) -> list[PostTraining]:
  """Splits a training into one for each part; returns it unchanged if there is one part."""
  batch_size, epochs = settings.data.batch_size, settings.epochs
  assert epochs is not None  # the study sets them
  steps = ends(epochs, every, num_examples=num_examples, batch_size=batch_size)
  if len(steps) == 1:
    return [settings]
  lengths = [end - begin for begin, end in zip([0, *steps], steps)]
  per_epoch = settings.checkpoint_every or 1
  return [
    dataclasses.replace(settings, epochs=None, steps=length, keep=length // per_epoch + 2)
    for length in lengths
  ]


def train(
  plans: Sequence[PostTraining],
  base: Weights,
  blocks: Blocks,
  *,
  seed: int,
  runtime: Runtime,
  folder: Path,
  diagnose: Callable[[Weights], dict[str, list[Row]]],
  note: Callable[[str], None],
) -> tuple[list[PostTrainingStage], str]:
  """Trains all parts, or resumes where an earlier call stopped; stops early if a diagnosis chooses nothing.

  Args:
    plans: the result of `split`.
    base: the start of the first part; each later part starts from the last weights of the previous one.
    blocks: the blocks to perturb and to update in the first part.
    seed: seed of the first part, from which those of the others are derived.
    runtime: the devices and the status line.
    folder: folder of the run; with several parts, each has a folder in it.
    diagnose: weights -> {"rows": those of `layer_diagnosis.diagnose`}.
    note: receives a line for each later diagnosis, computed or read back.

  Returns:
    The parts that were trained, and why they ended early; "" if they did not.
  """
  done: list[PostTrainingStage] = []
  weights, begin = base, 0
  for number, settings in enumerate(plans):
    place = folder if len(plans) == 1 else folder / f"part{number + 1}"
    if number:
      found = remember(place / "diagnosis.json", functools.partial(diagnose, weights), note=note)["rows"]
      if reason := lacking(chosen(found)):
        note(f"ended after step {begin}: {reason}")
        return done, reason
      blocks = blocks_of(found)
      note(f"diagnosed again after step {begin}: perturbs {blocks[0]}, updates {blocks[1]}")
    trained = post_train(
      settings,
      weights,
      seed=seed + number * _APART,
      runtime=runtime,
      perturb=blocks[0],
      update=blocks[1],
      workdir=place,
    )
    done.append(PostTrainingStage(settings, blocks, trained, place, begin))
    weights, begin = trained.weights, begin + trained.total_steps
  return done, ""


def lacking(names: tuple[str | None, str | None]) -> str:
  """States which of the layers to perturb and to update the diagnosis did not find; "" if it found both."""
  missing = " and ".join(f"to {what}" for what, name in zip(("perturb", "update"), names) if name is None)
  return f"the diagnosis chooses no layer {missing}" if missing else ""


def blocks_of(rows: Sequence[Row]) -> Blocks:
  """Returns the blocks of the layers that a diagnosis chooses to perturb and to update."""
  by_layer = {row["layer"]: row["layer_blocks"] for row in rows}
  perturb, update = (None if name is None else by_layer[name] for name in chosen(list(rows)))
  return perturb, update


def told(parts: Sequence[PostTrainingStage], ended: str, *, num_examples: int) -> Row:
  """Summarises the parts for a row: length, layers, and the reason for stopping early."""
  each = [
    {
      "epochs": part.trained.total_steps * part.settings.data.batch_size / num_examples,
      "steps": part.trained.total_steps,
      "perturb": part.blocks[0],
      "update": part.blocks[1],
    }
    for part in parts
  ]
  return {"parts": each, **({"ended": ended} if ended else {})}


def seconds_per_epoch(parts: Sequence[PostTrainingStage], *, num_examples: int) -> float:
  """Returns the average seconds per epoch over all parts; NaN if no speed was measured."""
  steps = np.array([part.trained.total_steps for part in parts], np.float64)
  seconds = np.array([num_examples / part.trained.median("train/images_per_second") for part in parts])
  known = np.isfinite(seconds)
  return float(np.average(seconds[known], weights=steps[known])) if known.any() else float("nan")


def rejects(parts: Sequence[PostTrainingStage]) -> float:
  """Returns the share of steps that the rule rejected; NaN if the rule cannot reject."""
  return sum(part.trained.last("train/rejects") for part in parts) / max(parts[-1].end, 1)

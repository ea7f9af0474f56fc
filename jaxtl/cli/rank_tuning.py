"""The fine-tuning after a ranking: the first few weights, with what is left of a budget."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl.checkpoints import checkpoint
from jaxtl.cli.finetune import held_out_parts
from jaxtl.cli.options import column_choice
from jaxtl.errors import CheckpointError, ConfigError, InputError
from jaxtl.host.processes import from_first
from jaxtl.measure.source_record import weights_digest
from jaxtl.metrics import wilson_interval
from jaxtl.pretrained import guessing
from jaxtl.runner import provenance
from jaxtl.runner import run as study
from jaxtl.selection.budget import Budget, Recipe, check_budget, divide, parse_budget, tuning_seconds
from jaxtl.selection.ranking import Place, Ranking
from jaxtl.studies.transfer import recipe
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

FOLDER, WEIGHTS = "finetune", "weights"
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Tuning:
  """What is fine-tuned after a ranking, and with how much.

  Attributes:
    budget: the budget.
    first: the number of weights.
    parts: specs of the training, validation and test images.
    notes: about the choice of these images.
    began: when the command began, by the monotonic clock.
  """

  budget: Budget
  first: int
  parts: dict[str, Any]
  notes: tuple[str, ...]
  began: float

  @staticmethod
  def of(options: argparse.Namespace, *, began: float) -> Tuning | None:
    """Reads the options; None without a budget.

    Raises:
      ConfigError: an option requires another one, or the budget is too small.
      DataError: the data cannot be opened, or a class has too few images to hold some out.
    """
    if options.finetune_budget is None:
      if options.first is not None:
        raise ConfigError("--first requires --finetune-budget; give both, or leave it out")
      return None
    if options.out is None:
      raise ConfigError("--finetune-budget requires --out, the folder of the fine-tuned weights")
    if options.split is not None:
      raise ConfigError(
        "--split cannot be combined with --finetune-budget, which trains on the training split"
      )
    budget = parse_budget(options.finetune_budget)
    first = min(options.first or 3, len(options.weights))
    check_budget(budget, weights=first, rates=len(recipe.RATES))
    parts, notes = held_out_parts(
      options.data, val=None, columns=column_choice(options), data_dir=options.data_dir
    )
    return Tuning(budget, first, parts, tuple(notes), began)

  def train_source(self) -> Any:
    """Opens the training images, which exclude all that choose or test."""
    return self._source("train")

  def recipe(self) -> Recipe:
    """Returns what the cost of a fine-tuning depends on."""
    num_train = len(self.train_source())
    return Recipe(
      rates=len(recipe.RATES),
      batch_size=BATCH_SIZE,
      num_train=num_train,
      num_evaluated=sum(len(self._source(part)) for part in ("validation", "test")),
      most=math.ceil(recipe.EPOCHS * num_train / BATCH_SIZE),
    )

  def _source(self, part: str) -> Any:
    return config_lib.spec(self.parts[part], at="--data").realize(data_dir=None)


def tuned(ranking: Ranking, tuning: Tuning, options: argparse.Namespace, runtime: Runtime) -> Ranking:
  """Fine-tunes the first weights of a ranking by the transfer study, best first, and adds the results to it.

  A weight whose fine-tuning would exceed the time that is left is not started; finished ones are read back.
  """
  chosen = ranking.ranked[: tuning.first]
  recipe_cost = tuning.recipe()
  steps = divide(tuning.budget, chosen, recipe_cost, spent=time.monotonic() - tuning.began)
  out = options.out / FOLDER
  config = from_first(lambda: _config(ranking, steps, tuning, options))
  if config is None:
    note = "Nothing was fine-tuned: the scores took the whole budget."
    return dataclasses.replace(ranking, notes=(*ranking.notes, note))
  rows: list[Row] = []
  notes = list(tuning.notes)
  pace = 1.0
  for place in chosen:
    if place.name not in config["arms"]:
      notes.append(f"{place.name} was not fine-tuned: the budget has no step for it")
      continue
    count = config["arms"][place.name]["transfer"]["fine_tune"]["steps"]
    planned = tuning_seconds(place, count, recipe_cost)
    finished = (out / place.name / "0" / "rows.jsonl").exists()
    if rows and not finished and _exceeds(tuning, planned * pace):
      notes.append(f"{place.name} was not fine-tuned: what is left of the budget is too short")
      continue
    before = time.monotonic()
    found = study.run_study(
      config, workdir=out, runtime=runtime, arms=[place.name], command=options.command_line
    )
    pace = pace if finished else max(pace, (time.monotonic() - before) / planned)
    rows += [_row(place, row) for row in found if row.get("kind") == "transfer"]
  said = [_sentence(ranking, rows), *(f"{note}." for note in notes)]
  return dataclasses.replace(ranking, tuned=tuple(rows), notes=(*ranking.notes, *said))


def _config(
  ranking: Ranking, steps: dict[str, int], tuning: Tuning, options: argparse.Namespace
) -> dict[str, Any] | None:
  """Returns the config of the transfer study, or that of an earlier session; None if there are no steps."""
  before = options.out / FOLDER / "config.json"
  if before.is_file():  # the same request: another session began, with as much time as it had left
    return dict(config_lib.plain(provenance.read_json(before)))
  if not steps:
    return None
  starts = {place.name: _start(place, options) for place in ranking.ranked if place.name in steps}
  choices = recipe.Choices(steps=max(steps.values()), batch_size=BATCH_SIZE)
  config = recipe.config_of(ranking.target["target"], tuning.parts, starts, {}, choices)
  for name, count in steps.items():
    config["arms"][name].setdefault("transfer", {})["fine_tune"] = dict(steps=count)
  plain: dict[str, Any] = config_lib.plain(config)
  return plain


def _start(place: Place, options: argparse.Namespace) -> str:
  """Returns the checkpoint of a weight; one of another library is saved in the folder of the result."""
  path = Path(place.row["given"])
  try:
    checkpoint.find(path)
    return str(path.resolve())
  except CheckpointError:
    pass
  folder = options.out / WEIGHTS / place.name
  if not folder.exists():
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights = guessing.open_weights(path, model=options.model, layout=options.layout)
    checkpoint.save_weights(weights, folder)
  if weights_digest(checkpoint.load(folder)) != place.row["digest"]:
    raise InputError(f"{folder} is not {path}; give another --out, or remove it")
  return str(folder.resolve())


def _exceeds(tuning: Tuning, seconds: float) -> bool:
  limit = tuning.budget.seconds
  return limit is not None and time.monotonic() - tuning.began + seconds > limit


def _row(place: Place, row: Row) -> Row:
  low, high = wilson_interval(row["accuracy"], row["num_test"])
  kept = ("protocol", "accuracy", "num_test", "steps", "selected_step", "peak_rate", "seconds")
  return {"weight": place.name, "low": low, "high": high} | {key: row[key] for key in kept if key in row}


def _sentence(ranking: Ranking, rows: list[Row]) -> str:
  best = max(rows, key=lambda row: row["accuracy"])
  how = "fine-tuning" if best["protocol"] == "fine_tune" else "its linear probe"
  first = ranking.ranked[0].name
  agrees = (
    "which the scores put first" if best["weight"] == first else f"not {first}, which the scores put first"
  )
  near = sorted({row["weight"] for row in rows if row["high"] > best["low"]} - {best["weight"]})
  tied = f"; its interval overlaps with that of {', '.join(near)}" if near else ""
  return (
    f"On {best['num_test']:,} test images {best['weight']} is the best by {how}, {agrees}: "
    f"{100 * best['accuracy']:.1f} %{tied}."
  )

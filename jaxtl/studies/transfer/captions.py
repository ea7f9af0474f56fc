"""The captions of the tables of a transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl import config as config_lib
from jaxtl.config import call
from jaxtl.errors import ConfigError
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.report.findings import seeds_sentence
from jaxtl.report.results import Results
from jaxtl.report.table import Table
from jaxtl.studies.transfer.results import protocol_title, targets


def caption(
  results: Results, table: Table, protocol: str, *, measures: Sequence[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
  """Explains how to read a table: seeds, protocol, and the meaning of each measure.

  Args:
    results: the study.
    table: the table.
    protocol: "fine_tune" or "linear_probe"; empty for a table without transfer.
    measures: topics of columns that another study has put before these.
  """
  topics = [("Seeds", seeds_sentence(results))]
  if protocol:
    own = [arm for arm, change in results.config.get("arms", {}).items() if (change or {}).get("transfer")]
    but = f"; {', '.join(own)} with settings of its own, listed under Arms" if own else ""
    topics.append(("Protocol", f"{_recipe(results.config.get('base', {}), protocol)}{but}."))
  if protocol == "linear_probe":
    topics += [("Penalty", text) for text in _choices_of_penalty(results)]
  if any(column.beside for column in table.columns):
    topics.append(
      (
        "Accuracy",
        "Of the last step. The small number next to it is the best test evaluation of the run: choosing on "
        "the test set flatters, so nothing is concluded from it.",
      )
    )
  elif protocol == "fine_tune":
    topics.append(("Accuracy", "Of the last step; nothing is chosen on the test sets."))
  topics += measures
  titles = {column.title for column in table.columns}
  if "mean rank" in titles:
    ranked = "Among the arms, on each target and for each seed that all arms have: 1 is best, ties share."
    topics.append(("Mean rank", ranked))
  lowest = [name for name, title in (("λ_max", "λ_max"), ("rank", "mean rank")) if title in titles]
  best = "highest accuracy" + (f", lowest {' and '.join(lowest)}" if lowest else "")
  beyond = "The difference may be within the spread."
  topics.append(("Bold", f"The best mean of the column as printed ({best}). {beyond}"))
  return topics


def _choices_of_penalty(results: Results) -> list[str]:
  """States, by target, where the probe's penalty was chosen differently from the protocol."""
  how = {
    "leave_one_out": "chosen by leaving one image out at a time, since most classes have fewer than 3",
    "nothing": "the middle one of those listed: with one training image per class none can be chosen",
  }
  where: dict[str, set[str]] = {}
  for row in results.rows:
    where.setdefault(row.get("l2_chosen_by", ""), set()).add(row.get("target", ""))
  return [
    f"On {', '.join(name for name in targets(results) if name in where[by])}: {text}."
    for by, text in how.items()
    if by in where
  ]


def _length(recipe: Mapping[str, Any]) -> str:
  if recipe.get("steps") is not None:
    return f"{recipe['steps']} steps"
  return f"{recipe.get('epochs', 0):g} epochs"


def _recipe(base: Mapping[str, Any], protocol: str) -> str:
  transfer = base.get("transfer") or {}
  recipe = transfer.get(protocol) or {}
  targets = transfer.get("targets") or {}
  pixels = _pixels(targets)
  if protocol == "linear_probe":
    return f"{protocol_title(protocol)}: {_probe(recipe)}; images not augmented, {pixels}"
  if protocol != "fine_tune" or not recipe:
    return protocol_title(protocol)
  batches = sorted({target["train"].get("batch_size", 128) for target in targets.values()})
  task = recipe.get("task") or {}
  parts = [
    f"all weights with a new head, {_length(recipe)}",
    call(recipe.get("optimizer")),
    f"batches of {' or '.join(map(str, batches))}",
    f"loss {call(task.get('loss', task))}",
    *(["normalisation statistics frozen"] if task.get("frozen_stats", True) else []),
    *([f"gradient {call(recipe['gradient'])}"] if recipe.get("gradient") else []),
    pixels,
  ]
  return f"{protocol_title(protocol)}: {', '.join(parts)}"


def _probe(recipe: Mapping[str, Any]) -> str:
  try:
    probe = config_lib.parse(recipe, LinearProbe)
  except ConfigError:  # the folder is from another version
    return "logistic regression on frozen features"
  grid = ", ".join(f"{value:g}" for value in probe.l2)
  return (
    f"logistic regression on frozen pooled features, at most {probe.max_iters} L-BFGS steps, "
    f"L2 penalty of {grid} chosen on a held-out {probe.held_out:.0%} of the training images"
  )


def _pixels(targets: Mapping[str, Any]) -> str:
  tests = [target.get("test") or {} for target in targets.values()]
  own = [test for test in tests if not test.get("transforms")]
  if own and len(own) == len(tests):
    return "with the checkpoint's own preprocessing"
  found = [_size(test) for test in tests]
  sizes = sorted({size for size in found if size is not None})
  if not found or None in found:
    return "at the size of the source"
  return f"at {' or '.join(f'{size} x {size}' for size in sizes)} pixels"


def _size(data: Mapping[str, Any]) -> int | None:
  """Returns the side in pixels, from the last transform that sets it, or from the source."""
  for stage in [*reversed(data.get("transforms") or []), data.get("source") or {}]:
    if isinstance(stage.get("size"), int):
      return stage["size"]
  return None

"""What the report says in words: computed from the rows, and claiming no more than they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtl import config as config_lib
from jaxtl.errors import ConfigError
from jaxtl.studies.results import Results, Values, is_number
from jaxtl.studies.tables import (
  Table,
  curvature_values,
  curvatures,
  decimals_for,
  mean_and_spread,
  measures_of,
  protocol_title,
)
from jaxtl.studies.transfer import LinearProbe


class _Headline(NamedTuple):
  """What a study is about.

  Attributes:
    best: names the best of several arms.
    measure: names the number of one.
    values: the numbers.
    digits: after the point.
    larger: whether more is better.
  """

  best: str
  measure: str
  values: dict[str, dict[int, float]]
  digits: int
  larger: bool


def finding(results: Results) -> list[str]:
  """The result in one sentence; nothing where the arms of a study are not what it compares."""
  found = _headline(results)
  if found is None:
    return []
  if not found.values:
    return [_without_headline(results)]
  values, digits = found.values, found.digits
  best, *others = _ordered(values, found.larger)
  number = f"{_number(values[best], digits)}{_over_seeds(values[best])}"
  if len(results.arms) == 1:
    return [f"{found.measure}, {best}: {number}."]
  text = f"{found.best}: {best} {number}"
  if not others:
    return [f"{text}; no other arm is there to compare it with."]
  first = results.arms[0]
  compared = [(others[0], "the next best")]
  if first in others[1:]:
    compared.append((first, "the first arm"))
  gaps = [f"{_ahead(found, best, other)} {other} ({what})" for other, what in compared]
  return [f"{text}; {' and '.join(gaps)}."]


def _without_headline(results: Results) -> str:
  """Summarises a study that has none of the numbers that a headline compares."""
  if not results.finished:
    return "No cell of this study is finished: there are no numbers yet."
  total = len(results.arms) * len(results.seeds)
  done = f"{len(results.finished)} of {total} cells of this study are finished"
  if not (measures := measures_of(results)):
    return f"{done}; their rows have no numbers."
  named = f"{', '.join(measures[:6])}{', ...' if len(measures) > 6 else ''}"
  return (
    f"{done}. The study does not say which of its measures decides ({named}), so no arm is called the best."
  )


def _ahead(found: _Headline, best: str, other: str) -> str:
  """How far the best arm is from another; a difference that would be printed as 0 is called a tie."""
  gap = _gap(found.values, best, other)
  if not float(f"{gap:.{found.digits}f}"):
    return "equal to" if not gap else f"a tie, less than {10**-found.digits:.{found.digits}f} from"
  return f"{gap:.{found.digits}f} {'ahead of' if found.larger else 'below'}"


def qualifications(results: Results) -> list[str]:
  """What to know before believing the finding: seeds, overlap, what is missing."""
  headline = _headline(results)
  values, larger = (headline.values, headline.larger) if headline else ({}, False)
  said = []
  if len(values) > 1:
    best, other = _ordered(values, larger)[:2]
    said.append(_apart(values, best, other, larger))
    first = results.arms[0]
    if first not in (best, other) and values.get(first):
      said.append(_apart(values, best, first, larger))
  said += [*_at_ends(results), *_worse_by_tuning(results)]
  if results.missing:
    said += _what_is_missing(results)
    counts = {len(by_seed) for by_seed in values.values()}
    unfinished = any(cell in results.asked for cell in results.missing)
    if headline and (len(counts) > 1 or (unfinished and set(values) != set(results.arms))):
      said.append("Arms are compared over the seeds that each has, so the order may change.")
  return said


def ends_of_rates(results: Results) -> dict[str, str]:
  """arm -> "smallest" or "largest", if the best of several rates is at that end of those that were tried."""
  trials: dict[str, dict[float, float]] = {}
  for row in results.rows:
    if row.get("kind") == "tune":
      trials.setdefault(row["arm"], {})[row["peak_rate"]] = row["accuracy"]
  ends = {}
  for arm, accuracies in trials.items():
    chosen = max(accuracies, key=lambda rate: accuracies[rate])
    if len(accuracies) > 1 and chosen in (min(accuracies), max(accuracies)):
      ends[arm] = "smallest" if chosen == min(accuracies) else "largest"
  return ends


def _at_ends(results: Results) -> list[str]:
  """Peak rates and penalties that are at an end of their grids."""
  said = [text] if (text := end_of_grid(ends_of_rates(results))) else []
  places = []
  for row in results.rows:
    if row.get("kind") != "transfer" or not is_number(penalty := row.get("l2")):
      continue
    grid = _penalties(results, row["arm"])
    if len(grid) > 1 and penalty in (min(grid), max(grid)):
      places.append(f"{row['arm']} on {row['target']} ({'smallest' if penalty == min(grid) else 'largest'})")
  places = list(dict.fromkeys(places))
  if places:
    said.append(f"At an end of the probe's penalties: {_some(places)}. A better penalty may lie beyond.")
  return said


def _penalties(results: Results, arm: str) -> tuple[float, ...]:
  recipe = (results.arm_config(arm).get("transfer") or {}).get("linear_probe") or {}
  try:
    return config_lib.parse(recipe, LinearProbe).l2
  except ConfigError:  # a folder of another version
    return ()


def _worse_by_tuning(results: Results) -> list[str]:
  """Fine-tuning that ends below the linear probe of the same weights, or below where it began."""
  said = []
  tuned, probed = (
    {
      (arm, target): _mean(by_seed)
      for target in results.targets
      for arm, by_seed in results.values(
        "accuracy", kind="transfer", protocol=protocol, target=target
      ).items()
    }
    for protocol in ("fine_tune", "linear_probe")
  )
  below = [
    f"{arm} on {target} ({tuned[arm, target]:.3f} against {probed[arm, target]:.3f})"
    for arm, target in tuned
    if probed.get((arm, target), 0.0) > tuned[arm, target]
  ]
  if below:
    said.append(f"Fine-tuning ends below the linear probe: {_some(below)}. Another rate or length may help.")
  worse = [
    f"{row['arm']} on {row['patching']} ({end:.3f} after {start:.3f})"
    for row in results.rows
    if row.get("kind") == "patch"
    and (end := row["fine_tuned/test_patching_top1"]) < (start := row["zero_shot/test_patching_top1"])
  ]
  if worse := list(dict.fromkeys(worse)):
    said.append(f"Fine-tuning ends below its own start: {_some(worse)}. Another rate or length may help.")
  return said


def _some(places: Sequence[str]) -> str:
  return "; ".join(places[:4]) + (f"; and {len(places) - 4} more" if len(places) > 4 else "")


def _what_is_missing(results: Results) -> list[str]:
  """The cells that are not done, and those that nobody has asked for."""
  total = len(results.arms) * len(results.seeds)
  open_ones = [cell for cell in results.missing if cell in results.asked]
  others = [cell for cell in results.missing if cell not in results.asked]
  done = total - len(results.missing)
  if open_ones:
    said = [
      f"The study is unfinished: {done} of {total} cells (arm/seed) are done; missing: {_few(open_ones)}."
    ]
  else:
    arms = dict.fromkeys(
      arm for arm in results.arms for seed in results.seeds if (arm, seed) in results.asked
    )
    seeds = sorted({seed for _, seed in results.asked})
    of_seeds = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    said = [f"What was asked for is complete: {', '.join(arms)}, {of_seeds}."]
  if others:
    said.append(f"Not asked for (--arms, --seeds): {_few(others)}.")
  return said


def _few(cells: Sequence[tuple[str, int]]) -> str:
  more = f" and {len(cells) - 8} more" if len(cells) > 8 else ""
  return ", ".join(f"{arm}/{seed}" for arm, seed in cells[:8]) + more


def caption(results: Results, table: Table) -> list[tuple[str, str]]:
  """How to read a table, as pairs of a topic and a text: seeds, protocol, and what each measure is."""
  said = [("Seeds", _seeds_sentence(results))]
  titles = {column.title for column in table.columns}
  if table.protocol:
    own = [arm for arm, change in results.config.get("arms", {}).items() if (change or {}).get("transfer")]
    but = f"; {', '.join(own)} with settings of its own, listed under Arms" if own else ""
    said.append(("Protocol", f"{_recipe(results.config.get('base', {}), table.protocol)}{but}."))
  if table.protocol == "linear_probe":
    said += [("Penalty", text) for text in _choices_of_penalty(results)]
  if any(column.beside for column in table.columns):
    said.append(
      (
        "Accuracy",
        "Of the last step. The small number beside it is the best test evaluation of the run: choosing on "
        "the test set flatters, so nothing is concluded from it.",
      )
    )
  elif table.protocol == "fine_tune":
    said.append(("Accuracy", "Of the last step; nothing is chosen on the test sets."))
  if "accuracy" in titles:
    said.append(("Pre-training", f"Accuracy is top-1 on the evaluation set {results.evaluations[0]}."))
  if "λ_max" in titles:
    said.append(("λ_max", "The largest curvature of the cross-entropy, whatever the arm was trained with."))
  if "mean rank" in titles:
    ranked = "Among the arms, on each target and for each seed that all arms have: 1 is best, ties share."
    said.append(("Mean rank", ranked))
  said += [("Speed", f"{_capital(c.measure)}; not marked.") for c in table.columns if c.title == "speed"]
  said.append(
    (
      "Bold",
      "The best mean of the column as printed (highest accuracy, lowest λ_max and rank). It does not say "
      "that the difference is beyond the spread.",
    )
  )
  return said


def plain_caption(results: Results) -> list[tuple[str, str]]:
  """How to read the table of a study from outside, which this report does not know."""
  said = [("Seeds", _seeds_sentence(results))]
  counts = [(row["arm"], row["seed"]) for row in results.rows]
  if len(set(counts)) < len(counts):
    said.append(("Rows", "Some cells have several rows: each number is the mean over those that have it."))
  return [
    *said,
    ("Numbers", "Every numeric key of the study's rows. The study does not say which values are good."),
  ]


def _choices_of_penalty(results: Results) -> list[str]:
  """Where the probe's penalty was chosen otherwise than the protocol says, by the targets."""
  how = {
    "leave_one_out": "chosen by leaving one image out at a time, since most classes have fewer than 3",
    "nothing": "the middle one of those listed: with one training image a class none can be chosen",
  }
  where: dict[str, set[str]] = {}
  for row in results.rows:
    where.setdefault(row.get("l2_chosen_by", ""), set()).add(row.get("target", ""))
  return [
    f"On {', '.join(name for name in results.targets if name in where[by])}: {text}."
    for by, text in how.items()
    if by in where
  ]


def curvature_sentence(results: Results) -> str:
  """How lambda_max was measured, and how well."""
  images = sorted(set(_each(curvature_values(results, "num_examples"))))
  if not images:
    return ""
  residuals = sorted(_each(curvature_values(results, "residual")))
  # True, 1.0 or NaN, by the study.
  converged = [
    row["converged"] == 1
    for row in results.rows
    if "lambda_max" in row and row["converged"] in (0, 1) and row.get("loss") != "training"
  ]
  counts = " or ".join(f"{value:,.0f}" for value in images)
  text = f"λ_max is the largest eigenvalue of the Hessian of the mean cross-entropy on {counts} images"
  if residuals:
    text += f"; relative residuals {residuals[0]:.2g} to {residuals[-1]:.2g}"
  if converged:
    text += f"; {sum(converged)} of {len(converged)} measurements reached their tolerance"
  return f"{text}."


def end_of_grid(ends: Mapping[str, str]) -> str:
  """A warning for arms whose best rate is the "smallest" or the "largest" that was tried; else nothing."""
  if not ends:
    return ""
  names = ", ".join(f"{arm} ({end})" for arm, end in ends.items())
  return f"At an end of the rates tried: {names}. A better rate may lie beyond."


def call(value: Any) -> str:
  """A component as a short call: `adam(peak_rate=0.001)`."""
  if not isinstance(value, Mapping):
    return f"{value:g}" if isinstance(value, float) else str(value)
  kind = next((kind for kind in config_lib.KINDS if kind in value), None)
  parts = ", ".join(f"{key}={call(item)}" for key, item in value.items() if key != kind)
  if kind is None:
    return f"{{{parts}}}"
  name = str(value[kind]).rpartition(".")[2]
  return f"{name}({parts})" if parts else name


def _headline(results: Results) -> _Headline | None:
  """What the study is about: transfer, else pre-training accuracy, else patching, else curvature.

  None for a study of layers: it compares methods, and each of its arms says what came of them.
  """
  for protocol in results.protocols:
    values = results.transfer_means(protocol)
    if values:
      count = len(results.targets)
      where = f"mean accuracy over {count} targets" if count > 1 else f"accuracy on {results.targets[0]}"
      how = {"fine_tune": "by fine-tuning", "linear_probe": "by linear probe"}.get(protocol, protocol)
      return _Headline(f"Best {where} {how}", _capital(f"{where} {how}"), values, 3, True)
  for name in results.evaluations:
    values = results.values(f"{name}/top1", kind="pretrain")
    if values:
      measure = f"pre-training accuracy on {name}"
      return _Headline(f"Best {measure}", _capital(measure), values, 3, True)
  # Not the sum that was minimised: arms may normalise their losses each in its own way.
  patched = results.means(_both_accuracies, kind="patch")
  if patched:
    measure = "accuracy on supported and patching task at the optimised coefficient, mean over pairs"
    return _Headline(f"Best {measure}", _capital(measure), patched, 3, True)
  if any(row.get("kind") == "post_training" for row in results.rows):
    return None
  values = curvatures(results)
  digits = decimals_for(values)
  return _Headline("Flattest (smallest λ_max)", "λ_max of the cross-entropy", values, digits, False)


def _both_accuracies(row: Mapping[str, Any]) -> float:
  return (row["optimised/test_supported_top1"] + row["optimised/test_patching_top1"]) / 2


def _ordered(values: Values, larger: bool) -> list[str]:
  sign = -1 if larger else 1
  return sorted(values, key=lambda arm: sign * _mean(values[arm]))


def _apart(values: Values, best: str, other: str, larger: bool) -> str:
  """Whether the seeds of two arms overlap."""
  a, b = values[best].values(), values[other].values()
  if min(len(a), len(b)) < 2:
    return (
      f"{best} against {other}: one seed only, so whether the difference is more than chance is not known."
    )
  apart = min(a) > max(b) if larger else max(a) < min(b)
  shared = sorted(set(values[best]) & set(values[other]))
  sign = 1 if larger else -1
  ahead = sum(sign * values[best][seed] > sign * values[other][seed] for seed in shared)
  pairs = f"{best} is ahead in {ahead} of {len(shared)} seeds"
  if apart:
    return f"{best} against {other}: the seeds do not overlap ({pairs})."
  return f"{best} against {other}: the seeds overlap, so the difference is within the spread ({pairs})."


def _seeds_sentence(results: Results) -> str:
  count = len({seed for _, seed in results.finished})
  if count < 2:
    return "One seed: no spread is known."
  text = f"Mean over {count} seeds ± standard deviation (with n - 1)"
  return f"{text}; cells with fewer say so." if results.missing else f"{text}."


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
  except ConfigError:  # a folder of another version
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
  """Pixels of the side, from the last transform that sets them, or the source."""
  for stage in [*reversed(data.get("transforms") or []), data.get("source") or {}]:
    if isinstance(stage.get("size"), int):
      return stage["size"]
  return None


def _capital(text: str) -> str:
  return text[:1].upper() + text[1:]


def _gap(values: Values, best: str, other: str) -> float:
  return abs(_mean(values[best]) - _mean(values[other]))


def _mean(by_seed: Mapping[int, float]) -> float:
  return mean_and_spread(list(by_seed.values()))[0]


def _number(by_seed: Mapping[int, float], digits: int) -> str:
  mean, spread = mean_and_spread(list(by_seed.values()))
  return f"{mean:.{digits}f}" if len(by_seed) < 2 else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _over_seeds(by_seed: Mapping[int, float]) -> str:
  return " (one seed)" if len(by_seed) == 1 else f" over {len(by_seed)} seeds"


def _each(values: Values) -> Iterator[float]:
  for by_seed in values.values():
    yield from by_seed.values()

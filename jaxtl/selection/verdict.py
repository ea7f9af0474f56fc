"""The sentence that a ranking ends with: which weight to take, how sure that is, and whether scores agree."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtl.measure.transfer_scores import SCORES
from jaxtl.selection.ranking import Agreement, Place, Ranking, value_of


def number(score: str, value: float | None, *, signed: bool = False) -> str:
  """Formats a value of a score: percent for shares of images, else three decimals; "-" for None."""
  if value is None:
    return "-"
  sign = "+" if signed else ""
  return f"{100 * value:{sign}.1f}" if SCORES[score].accuracy else f"{value:{sign}.3f}"


def unit(score: str) -> str:
  """Returns the unit of a difference of a score, with a space in front; empty if it has none."""
  return " points" if SCORES[score].accuracy else ""


def verdict(ranking: Ranking) -> str:
  """Says which weight to take, how sure that is, and whether the scores disagree, in one sentence."""
  best, *others = ranking.ranked
  parts = [f"Take {best.name}: {_value(ranking, best)}"]
  if not others:
    parts.append("there is no other weight to compare it with")
  else:
    parts += [_sureness(ranking, best), _next(ranking, best, others)]
    parts.append(_agreement(ranking.agreements))
  return "; ".join(part for part in parts if part) + "."


def _value(ranking: Ranking, place: Place) -> str:
  title = SCORES[ranking.by].title
  percent = " %" if SCORES[ranking.by].accuracy else ""
  interval = ""
  if place.low is not None:
    interval = f" (95 %: {number(ranking.by, place.low)} to {number(ranking.by, place.high)})"
  return f"{title} {number(ranking.by, place.value)}{percent}{interval}"


def _sureness(ranking: Ranking, best: Place) -> str:
  if best.first is None:
    return "how sure that is cannot be said, because the score has no terms by image"
  return f"it is first in {100 * best.first:.0f} % of {ranking.draws:,} resamples of the images"


def _next(ranking: Ranking, best: Place, others: Sequence[Place]) -> str:
  second = others[0]
  tied = [place.name for place in others if place.rank == best.rank]
  if tied:
    more = f" and {len(tied) - 3} more" if len(tied) > 3 else ""
    return f"the images do not tell it apart from {', '.join(tied[:3])}{more}"
  gap, error = second.behind or (0.0, None)
  spread = "" if error is None else f" ± {number(ranking.by, error)}"
  return f"the next is {second.name}, {number(ranking.by, gap)}{spread}{unit(ranking.by)} behind"


def _agreement(agreements: Sequence[Agreement]) -> str:
  """Says how many other scores put the same weight first, and which weight the rest puts first."""
  if not agreements:
    return ""
  agree = [one for one in agreements if one.agrees]
  count = len(agreements)
  if len(agree) == count:
    return f"all {count} other scores agree on it" if count > 1 else f"{_title(agreements[0])} agrees on it"
  rest: dict[str, list[str]] = {}
  for one in agreements:
    if not one.agrees:
      rest.setdefault(one.first[0], []).append(_title(one))
  said = ", ".join(f"{' and '.join(titles)} would take {name}" for name, titles in rest.items())
  return f"the scores disagree, {len(agree)} of {count} others put it first and {said}"


def _title(agreement: Agreement) -> str:
  return SCORES[agreement.score].title


def qualifications(ranking: Ranking) -> list[str]:
  """Lists what qualifies the verdict: static baselines, shared images, left-out scores, and controls."""
  return [
    *_baselines(ranking),
    *_seen(ranking),
    *_unranked(ranking),
    *_incomparable(ranking),
    *_above_a_weight(ranking),
    *ranking.notes,
  ]


def _baselines(ranking: Ranking) -> list[str]:
  """Compares the order with what is known without the target's images."""
  if len(ranking.ranked) < 2:
    return []
  best = ranking.ranked[0].name
  known = [place for place in ranking.ranked if place.row["source_accuracy"] is not None]
  said = []
  if len(known) >= 2:
    top = max(known, key=lambda place: place.row["source_accuracy"])
    same = "the same weight" if top.name == best else top.name
    missing = len(ranking.ranked) - len(known)
    unknown = f" (unknown for {missing})" if missing else ""
    said.append(f"The highest accuracy on the source data{unknown} would take {same}.")
  else:
    but = f" for all but {known[0].name}" if known else ""
    said.append(
      f"The accuracy on the source data, by which weights are usually chosen, is unknown{but}; give "
      "--source-accuracy to compare with it."
    )
  largest = max(ranking.ranked, key=lambda place: place.row["parameters"])
  said.append(
    f"The most parameters would take {'the same weight' if largest.name == best else largest.name}."
  )
  return said


def _seen(ranking: Ranking) -> list[str]:
  return [
    f"{place.name} was trained on {place.row['seen_images']} of these {place.row['num_images']} images, "
    "which flatters its scores."
    for place in ranking.places
    if place.row.get("seen_images")
  ]


def _unranked(ranking: Ranking) -> list[str]:
  return [
    f"{place.name} has no place: {place.row['scores'][ranking.by]['left_out']}."
    for place in ranking.places
    if place.rank is None
  ]


def _incomparable(ranking: Ranking) -> list[str]:
  if not ranking.incomparable:
    return []
  titles = " and ".join(SCORES[name].title for name in ranking.incomparable)
  return [f"{titles} are not compared: the heads have different numbers of classes."]


def _above_a_weight(ranking: Ranking) -> list[str]:
  """Names controls that reach a weight, which means that the score sees little in that weight."""
  said = []
  for row in ranking.controls:
    value = value_of(row, ranking.by)
    below = [p.name for p in ranking.ranked if value is not None and p.value is not None and p.value <= value]
    if below:
      said.append(f"The control {row['control']} reaches {', '.join(below)}: features that learned nothing.")
  return said

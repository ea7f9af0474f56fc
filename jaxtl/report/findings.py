"""The text of the report, computed from the rows; it claims no more than they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtl.report.results import Results
from jaxtl.report.section import Headline, Section
from jaxtl.report.table import mean_and_spread, measures_of


def finding(results: Results, section: Section) -> list[str]:
  """States the result in one sentence; returns nothing if the section states it itself."""
  headline = section.headline
  if not results.finished:
    return ["No cell of this study is finished: there are no numbers yet."]
  if headline is None:
    return [] if section.lead else [_without_headline(results)]
  best, *others = _ordered(headline)
  number = f"{_number(headline, best)}{_over_seeds(headline.values[best])}"
  if len(results.arms) == 1:
    return [f"{headline.measure}, {best}: {number}."]
  text = f"{headline.best}: {best} {number}"
  if not others:
    return [f"{text}; there is no other arm to compare it with."]
  first = results.arms[0]
  compared = [(others[0], "the next best")]
  if first in others[1:]:
    compared.append((first, "the first arm"))
  gaps = [f"{_ahead(headline, best, other)} {other} ({what})" for other, what in compared]
  return [f"{text}; {' and '.join(gaps)}."]


def _without_headline(results: Results) -> str:
  """Summarises a study without the numbers that a headline compares."""
  total = len(results.arms) * len(results.seeds)
  done = f"{len(results.finished)} of {total} cells of this study are finished"
  if not (measures := measures_of(results)):
    return f"{done}; their rows have no numbers."
  named = f"{', '.join(measures[:6])}{', ...' if len(measures) > 6 else ''}"
  return f"{done}. The study does not name its deciding measure ({named}), so no arm is called the best."


def _ahead(headline: Headline, best: str, other: str) -> str:
  """Describes the gap between the best arm and another; a gap that would print as 0 is a tie."""
  gap = abs(mean_of(headline.values[best]) - mean_of(headline.values[other]))
  if not float(f"{gap:.{headline.digits}f}"):
    return "equal to" if not gap else f"a tie, less than {10**-headline.digits:.{headline.digits}f} from"
  return f"{gap:.{headline.digits}f} {'ahead of' if headline.larger else 'below'}"


def qualifications(results: Results, section: Section) -> list[str]:
  """Lists what qualifies the finding: seeds, the section's warnings, and missing cells."""
  headline = section.headline
  values = headline.values if headline else {}
  sentences = []
  if headline and len(values) > 1:
    best, other = _ordered(headline)[:2]
    sentences.append(_apart(headline, best, other))
    first = results.arms[0]
    if first not in (best, other) and values.get(first):
      sentences.append(_apart(headline, best, first))
  sentences += section.warnings
  if results.missing:
    sentences += _what_is_missing(results)
    counts = {len(by_seed) for by_seed in values.values()}
    unfinished = any(cell in results.asked for cell in results.missing)
    if headline and (len(counts) > 1 or (unfinished and set(values) != set(results.arms))):
      sentences.append("Arms are compared over the seeds that each has, so the order may change.")
  return sentences


def some(places: Sequence[str]) -> str:
  """Joins the first four, and counts the rest."""
  return "; ".join(places[:4]) + (f"; and {len(places) - 4} more" if len(places) > 4 else "")


def _what_is_missing(results: Results) -> list[str]:
  """Lists the cells that are not finished, and those that were not requested."""
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
    said = [f"What was requested is complete: {', '.join(arms)}, {of_seeds}."]
  if others:
    said.append(f"Not requested (--arms, --seeds): {_few(others)}.")
  return said


def _few(cells: Sequence[tuple[str, int]]) -> str:
  more = f" and {len(cells) - 8} more" if len(cells) > 8 else ""
  return ", ".join(f"{arm}/{seed}" for arm, seed in cells[:8]) + more


def _ordered(headline: Headline) -> list[str]:
  """Returns the arms, best first."""
  sign = -1 if headline.larger else 1
  return sorted(headline.values, key=lambda arm: sign * mean_of(headline.values[arm]))


def _apart(headline: Headline, best: str, other: str) -> str:
  """Describes whether the seeds of two arms overlap."""
  values, larger = headline.values, headline.larger
  a, b = values[best].values(), values[other].values()
  if min(len(a), len(b)) < 2:
    return f"{best} against {other}: one seed only, so the difference may be chance."
  apart = min(a) > max(b) if larger else max(a) < min(b)
  shared = sorted(set(values[best]) & set(values[other]))
  sign = 1 if larger else -1
  ahead = sum(sign * values[best][seed] > sign * values[other][seed] for seed in shared)
  pairs = f"{best} is ahead in {ahead} of {len(shared)} seeds"
  if apart:
    return f"{best} against {other}: the seeds do not overlap ({pairs})."
  return f"{best} against {other}: the seeds overlap, so the difference is within the spread ({pairs})."


def seeds_sentence(results: Results) -> str:
  """States the number of seeds over which a table averages."""
  count = len({seed for _, seed in results.finished})
  if count < 2:
    return "One seed: the spread is unknown."
  text = f"Mean over {count} seeds ± standard deviation (with n - 1)"
  return f"{text}; cells with fewer are marked." if results.missing else f"{text}."


def capital(text: str) -> str:
  """Capitalises the first letter of the text."""
  return text[:1].upper() + text[1:]


def mean_of(by_seed: Mapping[int, float]) -> float:
  """Returns the mean over seeds."""
  return mean_and_spread(list(by_seed.values()))[0]


def _number(headline: Headline, arm: str) -> str:
  mean, spread = mean_and_spread(list(headline.values[arm].values()))
  digits = headline.digits
  several = len(headline.values[arm]) > 1
  return f"{mean:.{digits}f} ± {spread:.{digits}f}" if several else f"{mean:.{digits}f}"


def _over_seeds(by_seed: Mapping[int, float]) -> str:
  return " (one seed)" if len(by_seed) == 1 else f" over {len(by_seed)} seeds"

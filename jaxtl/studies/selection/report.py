"""The report of a selection study."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtl.measure.transfer_scores import SCORES
from jaxtl.report.canvas import Figure
from jaxtl.report.findings import capital
from jaxtl.report.grid import Grid
from jaxtl.report.results import Results
from jaxtl.report.section import Section
from jaxtl.studies.selection import tables
from jaxtl.studies.selection.figures import predictors_figure, scatter_figure
from jaxtl.studies.selection.judging import (
  BASELINES,
  CLOSE,
  LEAST_CLUSTERS,
  LEAST_TARGETS,
  SOURCE_ACCURACY,
  Grounds,
  Judgement,
  chance,
  grounds,
  judgements,
)
from jaxtl.studies.transfer.report import facts, sizes
from jaxtl.studies.transfer.results import protocol_title, protocols

# Resamples of each interval.
DRAWS = 300
# Predictors whose taus differ by less tie.
EQUAL = 1e-9


def section(results: Results) -> Section:
  """Reports how well each score, and what is known without it, orders the checkpoints."""
  by = _by(results)
  lead: list[str] = []
  grids: list[Grid] = []
  figures: list[Figure] = []
  appendix: list[Grid] = []
  for protocol in protocols(results):
    given = grounds(results.rows, protocol)
    if given is None:
      continue
    found = judgements(given, draws=DRAWS)
    lead += _findings(given, found, protocol, by)
    grids.append(tables.predictors_grid(given, found, protocol, draws=DRAWS))
    figures += _figures(given, found, protocol, by)
    appendix.append(tables.targets_grid(given, found, protocol))
  if not lead:
    lead = ["No transfer of two checkpoints is measured yet, so that no score can be judged."]
  nulls = tables.nulls_grid(results)
  table = tables.results_table(results, by)
  caption = [("Scores", "of training images; a higher value claims a better transfer")]
  return Section(
    lead=lead,
    tables=[(table, caption)] if table.columns else [],
    grids=[*grids, *([nulls] if nulls else [])],
    figures=figures,
    appendix=appendix,
    facts=facts(results),
    sizes=sizes(results),
  )


def _by(results: Results) -> str:
  """Returns the score that orders, from the config of the first arm."""
  by = results.arm_config(results.arms[0]).get("by", "ridge")
  return by if by in SCORES else "ridge"


def _findings(given: Grounds, found: Sequence[Judgement], protocol: str, by: str) -> list[str]:
  """States which predictor orders best, whether that is more than the baseline, and what a choice loses."""
  how = protocol_title(protocol).lower()
  said = []
  if len(given.targets) < LEAST_TARGETS or given.num_clusters < LEAST_CLUSTERS:
    said.append(
      f"{capital(how)}: with {len(given.targets)} targets and {given.num_clusters} clusters of checkpoints "
      "no predictor can be preferred."
    )
  if not found:
    return said
  said.append(f"{capital(how)}: {_best(given, found)}{_against(found)}.")
  deciding = next((one for one in found if one.predictor == by), None)
  if deciding is not None:
    said.append(
      f"{capital(how)}: the checkpoint that {tables.title_of(by)} puts first is within {CLOSE:g} point of "
      f"the best on {deciding.close} of {deciding.judged} targets, and loses {deciding.regret:.2f} points in "
      "the mean."
    )
  if (limit := chance(given)) is not None:
    said.append(
      f"{capital(how)}: on one target, 5 % of the random orders of {len(given.arms)} checkpoints exceed a "
      f"weighted tau of {limit:.2f}."
    )
  return said


def _best(given: Grounds, found: Sequence[Judgement]) -> str:
  """Names the predictor that orders best; those that tie with it are counted."""
  best = found[0]
  ties = sum(one.tau.estimate >= best.tau.estimate - EQUAL for one in found) - 1
  others = f" and {ties} other{'s' * (ties > 1)} order" if ties else " orders"
  return (
    f"{tables.title_of(best.predictor)}{others} {len(given.arms)} checkpoints best, with a weighted tau of "
    f"{best.tau.estimate:.3f} in the mean over targets"
  )


def _against(found: Sequence[Judgement]) -> str:
  """Compares the best score with the accuracy on the source data."""
  known = next((one for one in found if one.predictor == SOURCE_ACCURACY), None)
  if known is None:
    return "; the accuracy on the source data is known for fewer than two of them"
  scores = [one for one in found if one.predictor not in BASELINES]
  if not scores:
    return ""
  best = scores[0]
  text = f"; the source accuracy reaches {known.tau.estimate:.3f}"
  if best.gain is None:
    return text
  apart = "distinguished" if best.gain.excludes_zero else "not distinguished"
  return f"{text}, and the best score, {tables.title_of(best.predictor)}, is {apart} from it"


def _figures(given: Grounds, found: Sequence[Judgement], protocol: str, by: str) -> list[Figure]:
  how = protocol_title(protocol).lower()
  names = [tables.title_of(one.predictor) for one in found]
  figures = []
  if names:
    figures.append(
      predictors_figure(
        names,
        [(one.tau.estimate, one.tau.low, one.tau.high) for one in found],
        baselines=frozenset(BASELINES.values()),
        title=f"Predictors of {how}",
        name=f"predictors_{protocol}",
      )
    )
  if by in given.predictors:
    scale = 100 if SCORES[by].accuracy else 1
    figures.append(
      scatter_figure(
        given.arms,
        given.targets,
        scale * given.predictors[by],
        given.accuracies,
        score=SCORES[by].title + (" %" if scale == 100 else ""),
        title=f"{SCORES[by].title} against {how}",
        name=f"{by}_{protocol}",
      )
    )
  return figures

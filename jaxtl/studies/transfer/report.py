"""The report of a transfer."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtl import config as config_lib
from jaxtl.errors import ConfigError
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.report.findings import capital, mean_of, some
from jaxtl.report.results import Results, is_number
from jaxtl.report.section import Caption, Headline, Section
from jaxtl.studies.transfer.captions import caption
from jaxtl.studies.transfer.figures import make_figures
from jaxtl.studies.transfer.results import accuracies, mean_accuracies, protocols, targets
from jaxtl.studies.transfer.tables import make_table, over_fitting_table

_ON_RISES: Caption = [
  (
    "Reading",
    "An arm over-fits if the interval of its rise is above zero. If scaling by a temperature takes the last "
    "loss back to the chosen one, only the scale of its logits over-fits.",
  )
]


def section(results: Results) -> Section:
  """Reports accuracy on every target, by protocol."""
  tables = [(make_table(results, name), name) for name in protocols(results)]
  over_fitting = [over_fitting_table(results, name) for name in targets(results)]
  return Section(
    headline=headline(results),
    warnings=warnings(results),
    tables=[
      *((table, caption(results, table, name)) for table, name in tables if table.columns),
      *((table, _ON_RISES) for table in over_fitting if table.columns),
    ],
    figures=make_figures(results),
    facts=facts(results),
    sizes=sizes(results),
  )


def headline(results: Results) -> Headline | None:
  """Returns mean accuracy over the targets, by the first protocol that has it; None before it is measured."""
  names = targets(results)
  for protocol in protocols(results):
    values = mean_accuracies(results, protocol)
    if values:
      where = f"mean accuracy over {len(names)} targets" if len(names) > 1 else f"accuracy on {names[0]}"
      how = {"fine_tune": "by fine-tuning", "linear_probe": "by linear probe"}.get(protocol, protocol)
      return Headline(f"Best {where} {how}", capital(f"{where} {how}"), values)
  return None


def facts(results: Results) -> dict[str, str]:
  """Returns the number of targets, for the head of the page."""
  count = len(targets(results))
  return {"targets": str(count)} if count else {}


def sizes(results: Results) -> dict[str, tuple[int | None, int | None]]:
  """Returns the images and classes of each target, as recorded in its rows."""
  return {
    f"transfer.targets.{row['target']}.{part}": (row.get(f"num_{part}"), row.get("num_classes"))
    for row in results.rows
    if row.get("kind") == "transfer"
    for part in ("train", "test")
  }


def warnings(results: Results) -> list[str]:
  """Warns of penalties at an end of their grid, and of fine-tuning that ends below the linear probe."""
  sentences = []
  places = list(dict.fromkeys(_at_ends(results)))
  if places:
    sentences.append(f"At an end of the probe's penalties: {some(places)}. A better penalty may lie beyond.")
  below = list(_below_probe(results))
  if below:
    sentences.append(
      f"Fine-tuning ends below the linear probe: {some(below)}. Another rate or length may help."
    )
  return sentences


def _at_ends(results: Results) -> Iterator[str]:
  for row in results.rows:
    if row.get("kind") != "transfer" or not is_number(penalty := row.get("l2")):
      continue
    grid = _penalties(results, row["arm"])
    if len(grid) > 1 and penalty in (min(grid), max(grid)):
      yield f"{row['arm']} on {row['target']} ({'smallest' if penalty == min(grid) else 'largest'})"


def _penalties(results: Results, arm: str) -> tuple[float, ...]:
  recipe = (results.arm_config(arm).get("transfer") or {}).get("linear_probe") or {}
  try:
    return config_lib.parse(recipe, LinearProbe).l2
  except ConfigError:  # the folder is from another version
    return ()


def _below_probe(results: Results) -> Iterator[str]:
  for target in targets(results):
    probed = accuracies(results, "linear_probe", target)
    for arm, by_seed in accuracies(results, "fine_tune", target).items():
      tuned = mean_of(by_seed)
      if arm in probed and mean_of(probed[arm]) > tuned:
        yield f"{arm} on {target} ({tuned:.3f} against {mean_of(probed[arm]):.3f})"

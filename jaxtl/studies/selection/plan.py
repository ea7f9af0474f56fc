"""The plan of a selection study: that of its transfer, and the passes of the scores."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from jaxtl.errors import InputError
from jaxtl.measure.passes import FORWARD
from jaxtl.runner.plan import Plan, existing_start
from jaxtl.studies.selection.settings import SelectionStudy
from jaxtl.studies.transfer.fine_tuning import filled_protocols
from jaxtl.studies.transfer.plan import plan_protocols
from jaxtl.studies.transfer.settings import Target
from jaxtl.train.runtime import Runtime


def plan(study: SelectionStudy, runtime: Runtime) -> Plan:
  """Plans the scores of one checkpoint, and its transfer."""
  start = existing_start(study.start)
  protocols = study.transfer if start is None else filled_protocols(study.transfer, start, runtime)
  model = None if start is None else start.model_spec(trust=runtime.trust)
  found = plan_protocols(protocols, model, runtime, starts={"start": study.start})
  most = f"at most {study.max_examples:,} training images of every target"
  taken = [("measured in", ", ".join(study.measured_from))] if study.measured_from else []
  return dataclasses.replace(
    found,
    lines=[*found.lines, ("scores", f"{len(study.scores)}: {most}"), *taken],
    measurements={
      **found.measurements,
      **{
        f"scores on {name}": functools.partial(_passes, study, target, runtime)
        for name, target in protocols.targets.items()
      },
    },
    checks=[*found.checks, functools.partial(_check_runs, study)],
  )


def _passes(study: SelectionStudy, target: Target, runtime: Runtime) -> float:
  """Returns the image passes of the scores on one target: with controls, two forward passes."""
  images = min(len(runtime.open(target.train)), study.max_examples)
  return FORWARD * images * (2 if study.controls else 1)


def _check_runs(study: SelectionStudy) -> None:
  """Refuses a folder without a run."""
  for run in study.measured_from:
    if not (Path(run) / "config.json").is_file():
      raise InputError(f"measured_from: there is no run in {run}; give the --workdir of a finished one")

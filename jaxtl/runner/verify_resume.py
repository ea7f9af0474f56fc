"""Checks that a run that was killed and resumed ends where an uninterrupted one does, bit for bit.

Three processes train the same experiment. The first is not interrupted. The second ends itself by SIGKILL,
which nothing can catch, whatever it is writing at that moment. The third resumes from what the second left
behind. Then every array of the two last checkpoints is compared, and every metrics record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import train
from jaxtl.checkpoints import checkpoint, manifest
from jaxtl.errors import ConfigError, Restart, RunError
from jaxtl.host import sealed_json
from jaxtl.runner.config_file import parse_config
from jaxtl.train.experiment import Experiment, total_steps
from jaxtl.train.loop import RATES, Observer
from jaxtl.train.runtime import Runtime

WHOLE, CUT, REST = "whole", "cut", "rest"
# The config that is suggested instead of a study that starts from checkpoints.
_EXAMPLE = "configs/quickstart.py"
_PART, _FOLDER = "JAXTL_RESUME_PART", "JAXTL_RESUME_FOLDER"


@dataclasses.dataclass(frozen=True)
class ResumePlan:
  """The plan of a trial.

  Attributes:
    arm: name of the arm.
    experiment: the experiment that is trained.
    seed: seed of all runs.
    steps: the step at which both runs end.
    kill_after: the step after which one run is killed.
  """

  arm: str
  experiment: Experiment
  seed: int
  steps: int
  kill_after: int


@dataclasses.dataclass(frozen=True)
class ResumeFinding:
  """The result of a trial.

  Attributes:
    plan: the plan of the trial.
    resumed_from: step of the checkpoint from which the run resumed; 0 if there was no checkpoint.
    uninterrupted, resumed: array path -> digest at the end.
    records: number of metrics records compared.
    unequal: one line per difference; empty for bit-for-bit equality.
  """

  plan: ResumePlan
  resumed_from: int
  uninterrupted: Mapping[str, str | None]
  resumed: Mapping[str, str | None]
  records: int
  unequal: Sequence[str]

  def __str__(self) -> str:
    plan = self.plan
    width = max(map(len, self.uninterrupted))
    lines = [
      f"arm {plan.arm}, seed {plan.seed}: {plan.steps} steps, against killed after step {plan.kill_after} "
      f"and resumed from step {self.resumed_from}",
      "",
      f"{'array':{width}} {'uninterrupted':16} {'resumed':16}",
    ]
    for path, digest in self.uninterrupted.items():
      other = self.resumed.get(path)
      lines.append(
        f"{path:{width}} {(digest or '-')[:16]:16} {(other or '-')[:16]:16} "
        f"{'equal' if digest == other else 'DIFFERENT'}"
      )
    equal = sum(digest == self.resumed.get(path) for path, digest in self.uninterrupted.items())
    lines += ["", f"{equal} of {len(self.uninterrupted)} arrays and {self.records} metrics records compared"]
    return "\n".join([*lines, *self.unequal, "not equal" if self.unequal else "equal, bit for bit"])


def make_plan(
  config: Mapping[str, Any], *, arm: str | None = None, seed: int | None, steps: int, kill_after: int
) -> ResumePlan:
  """Plans the trial of an arm; without a name, of the first arm that trains.

  The experiment logs every step, saves every second step and evaluates nothing.

  Raises:
    ConfigError: the config has no such arm, the arm does not train one network (as in a study that starts
      from checkpoints) or trains for no step, or the numbers do not fit.
  """
  study, arms = parse_config(config)
  if arm is not None and arm not in arms:
    raise ConfigError(f"no arm {arm!r}; the config has {', '.join(arms)}")
  where = f"config.arms.{arm}" if arm else "this config"
  trainings = {name: next(_experiments(arms[name]), None) for name in ([arm] if arm else arms)}
  if not any(trainings.values()):
    raise ConfigError(
      f"verify-resume needs the training of one network from its start, and {where}, of {study.study}, "
      f"has none; give the config that trains the checkpoint, like {_EXAMPLE}"
    )
  found = {name: one for name, one in trainings.items() if one is not None and (one.epochs or one.steps)}
  if not found:
    raise ConfigError(f"{where} trains nothing: epochs or steps is 0; write more, or name another --arm")
  if not 0 < kill_after < steps:
    raise ConfigError(f"--kill-after is {kill_after} of --steps {steps}; expected 1 to {steps - 1}")
  name, experiment = next(iter(found.items()))
  often = dataclasses.replace(experiment, log_every=1, checkpoint_every=2, evaluate_every=None, evaluation={})
  return ResumePlan(name, often, study.seeds[0] if seed is None else seed, steps, kill_after)


def part(environment: Mapping[str, str]) -> tuple[str, Path] | None:
  """Returns which of the three processes this is and where it writes; None for the one that starts them."""
  if _PART not in environment:
    return None
  return environment[_PART], Path(environment[_FOLDER])


def train_part(plan: ResumePlan, name: str, folder: Path, runtime: Runtime) -> None:
  """Runs the training of one of the three processes.

  Raises:
    ConfigError: the run has fewer steps than the plan.
  """
  length = total_steps(plan.experiment, len(runtime.open(plan.experiment.data)))
  if length < plan.steps:
    raise ConfigError(
      f"the run of arm {plan.arm} has {length} steps, and --steps is {plan.steps}; write fewer"
    )
  runtime.interruption = _StopAt(plan.steps)
  observers = {"kill": (1, lambda program: _killer(plan.kill_after))} if name == CUT else None
  with contextlib.suppress(Restart):  # the planned stop
    train.run(
      plan.experiment,
      seed=plan.seed,
      runtime=runtime,
      workdir=folder / (WHOLE if name == WHOLE else CUT),
      observers=observers,
    )


def verify(plan: ResumePlan, command: Sequence[str], folder: Path) -> ResumeFinding:
  """Runs the three processes with the command line of this one, and compares their results.

  Raises:
    RunError: a process did not end as planned; its own message appears above.
  """
  resumed_from = 0
  for name in (WHOLE, CUT, REST):
    if name == REST and (there := checkpoint.steps_in(folder / CUT / checkpoint.FOLDER)):
      resumed_from = max(there)
    child = subprocess.run(
      [sys.executable, "-m", "jaxtl", *command], env={**os.environ, _PART: name, _FOLDER: str(folder)}
    )
    planned = -signal.SIGKILL if name == CUT else 0
    if child.returncode != planned:
      code = max(child.returncode, 1)
      error = RunError(f"the {name} run of verify-resume ended with {child.returncode}, not {planned}")
      error.code = code
      raise error
  return _compare(plan, folder, resumed_from)


def _compare(plan: ResumePlan, folder: Path, resumed_from: int) -> ResumeFinding:
  found = [_digests(folder / name, plan.steps) for name in (WHOLE, CUT)]
  learned = [records(folder / name) for name in (WHOLE, CUT)]
  unequal = [
    f"{path}: {found[0].get(path)} and {found[1].get(path)}"
    for path in sorted({*found[0], *found[1]})
    if found[0].get(path) != found[1].get(path)
  ]
  if len(learned[0]) != len(learned[1]):
    unequal.append(f"{len(learned[0])} metrics records, and {len(learned[1])} of the resumed run")
  unequal += [f"metrics of step {a['step']}: {a} and {b}" for a, b in zip(*learned) if a != b]
  return ResumeFinding(plan, resumed_from, found[0], found[1], len(learned[0]), unequal)


def _digests(folder: Path, step: int) -> dict[str, str | None]:
  saved = manifest.verify_files(folder / checkpoint.FOLDER / str(step))
  return {path: leaf.sha256 for path, leaf in saved.leaves.items()}


def records(folder: Path) -> list[dict[str, Any]]:
  """Reads the metrics records of a run, without the rates, which depend on the machine."""
  found = sealed_json.read_records(folder / "metrics.jsonl")
  return [{key: value for key, value in record.items() if key not in RATES} for record in found]


def _experiments(value: Any) -> Iterator[Experiment]:
  """Yields the experiment that a study is, or those among its fields."""
  if isinstance(value, Experiment):
    yield Experiment(**{field.name: getattr(value, field.name) for field in dataclasses.fields(Experiment)})
  elif dataclasses.is_dataclass(value):
    for field in dataclasses.fields(value):
      yield from _experiments(getattr(value, field.name))


def _killer(step: int) -> Observer:
  def observe(state: train.TrainState) -> dict[str, float]:
    if int(state.step) == step:
      os.kill(os.getpid(), signal.SIGKILL)
    return {}

  return observe


class _StopAt:
  """A substitute for `Interruption` that makes a run save and stop after a given step."""

  def __init__(self, step: int):
    self._step = step

  def due(self, step: int) -> bool:
    return step == self._step

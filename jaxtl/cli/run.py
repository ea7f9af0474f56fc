"""The commands that run, check or test a config: `run`, `check`, `verify-resume` and `doctor`."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import jax

from jaxtl.cli.options import default_workdir
from jaxtl.cli.output import show
from jaxtl.cli.report import write_report
from jaxtl.cli.runtime import make_runtime
from jaxtl.host import exit_reason, processes
from jaxtl.host.interruption import Interruption, Watchdog
from jaxtl.host.processes import is_first_process
from jaxtl.runner import config_file
from jaxtl.runner import run as study
from jaxtl.train.runtime import Runtime


def begin(options: argparse.Namespace) -> Runtime:
  """Joins the other processes and takes the devices, which must be done before JAX computes anything."""
  processes.start(options.cluster, gather=options.gather_limit, heartbeat=options.heartbeat)
  return make_runtime(options)


def run(options: argparse.Namespace, runtime: Runtime | None = None) -> None:
  """Runs `jaxtl run`: every arm with every seed, then the report.

  Args:
    options: of the command.
    runtime: from `begin`; None begins here, once the config is known to be right.
  """
  config = config_file.load_config(options.config, options.overrides)
  config_file.parse_config(config)  # report mistakes before any file is written
  workdir = options.workdir or default_workdir(options.config)
  runtime = begin(options) if runtime is None else runtime
  runtime.quarantine = workdir / exit_reason.of_process("quarantine.jsonl", jax.process_index())
  runtime.watchdog = Watchdog(limit=options.hang_limit, folder=workdir)
  with runtime.watched():
    with Interruption(workdir).installed() as interruption:
      runtime.interruption = interruption
      study.run_study(
        config,
        workdir=workdir,
        runtime=runtime,
        arms=options.arms,
        seeds=options.seeds,
        command=options.command_line,
      )
    if not options.no_report and is_first_process():
      runtime.beat()
      write_report(workdir, workdir / "report", options.data_dir, trust=options.trust)


def check(options: argparse.Namespace) -> None:
  """Runs `jaxtl check`: describes the recipe in numbers without training."""
  from jaxtl.runner import describe

  config = config_file.load_config(options.config, options.overrides)
  if options.print_config:
    show(json.dumps(config, indent=2))
    return
  show(describe.describe(config, make_runtime(options), compiled=options.compile), end="")


def verify_resume(options: argparse.Namespace) -> int:
  """Runs `jaxtl verify-resume`; returns 1 if a resumed run differs from the uninterrupted one."""
  from jaxtl.runner import verify_resume as resume

  config = config_file.load_config(options.config, options.overrides)
  plan = resume.make_plan(
    config, arm=options.arm, seed=options.seed, steps=options.steps, kill_after=options.kill_after
  )
  if part := resume.part(os.environ):
    resume.train_part(plan, *part, make_runtime(options))
    return 0
  with tempfile.TemporaryDirectory(prefix="jaxtl-") as folder:
    finding = resume.verify(plan, options.command_line[1:], Path(folder))
  show(finding)
  return 1 if finding.unequal else 0


def doctor(options: argparse.Namespace) -> int:
  """Runs `jaxtl doctor`: reports what a run would find here; returns 1 if something is wrong."""
  from jaxtl.cli import doctor as doctor_lib

  return doctor_lib.examine(options, lambda: make_runtime(options))

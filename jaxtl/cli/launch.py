"""`jaxtl launch`: starts a run on other machines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jaxtl import launching
from jaxtl.cli import launch_options as launch_arguments
from jaxtl.cli.options import default_workdir
from jaxtl.cli.output import show
from jaxtl.errors import ConfigError
from jaxtl.runner import config_file


def launch(options: argparse.Namespace) -> int:
  """Runs `jaxtl launch`: prints what would start the run elsewhere, or with --yes starts it.

  Returns:
    The exit code of the command.
  """
  if options.dry_run and options.write:
    raise ConfigError("--dry-run writes nothing, so --write has no effect; leave one of them out")
  if options.dry_run and options.yes:
    raise ConfigError("--dry-run and --yes contradict each other; give one of them")
  config = config_file.load_config(options.config, options.overrides)
  parsed, arms = config_file.parse_config(config)
  config_file.check_chosen(options.arms, options.seeds, parsed)
  default = default_workdir(options.config)
  job, given = launch_arguments.job_of(
    options, name="-".join(default.parts[1:]), workdir=str(default), arms=tuple(arms), seeds=parsed.seeds
  )
  launching.check_setup(job.setup)
  folder = options.write or Path("runs", "launch", job.name)
  plan = launching.render(options.target, job, folder, given=given)
  if options.yes:
    return launching.submit(plan, folder)
  show(plan.text(folder), end="")
  if not options.dry_run:
    if options.write:
      launching.write(plan, folder)
    print("jaxtl: nothing has been submitted; add --yes to submit it", file=sys.stderr)
  return 0

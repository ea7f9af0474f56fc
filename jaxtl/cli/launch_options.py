"""The options of `jaxtl launch`, which are the same for every target, and the job that they describe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from jaxtl.cli.options import command, config_options, count, local_path, number, run_options
from jaxtl.launching.job import Job, label
from jaxtl.launching.targets import TARGETS

# option -> its parser, its placeholder, and its help
OPTIONS: dict[str, tuple[Any, str, str]] = {
  "name": (str, "NAME", "of the job, a DNS label (text; default: made of the config's path below configs)"),
  "image": (str, "IMAGE", "container image that has jaxtl (text; default: none)"),
  "nodes": (count, "N", "machines (integer; default: 1)"),
  "accelerator": (
    str,
    "TYPE",
    "as the target calls it: tpu-v6e-slice, v6e-16, v4-32, h100, H100 (text; default: none)",
  ),
  "chips": (count, "N", "accelerators of a machine (integer; default: 0, or what the type says)"),
  "topology": (str, "AxB", "of the TPU slice (text; default: none)"),
  "processes_per_node": (count, "N", "processes on a machine (integer; default: one for each chip, or 1)"),
  "cpus": (
    count,
    "N",
    "CPUs of a process (integer; default: 8 under SLURM with --chips, else the target's)",
  ),
  "memory": (count, "N", "memory of a machine (GiB; default: the target's)"),
  "time_limit": (str, "HH:MM:SS", "after which the job is ended (time; default: the target's)"),
  "retries": (number, "N", "restarts on exit code 42 (integer; default: 3)"),
  "grace": (count, "S", "between SIGTERM and SIGKILL, 30 or more (seconds; default: 60)"),
  "port": (count, "N", "of process 0, where the others find it (integer; default: 8476)"),
  "partition": (str, "NAME", "of SLURM, or several as A,B (text; default: the cluster's)"),
  "account": (str, "NAME", "of SLURM, which pays for the job (text; default: the user's)"),
  "project": (str, "NAME", "of Google Cloud (text; default: none)"),
  "zone": (str, "ZONE", "of the machines (text; default: none)"),
  "cluster": (str, "NAME", "of Kubernetes, for xpk (text; default: none)"),
  "namespace": (str, "NAME", "of Kubernetes (text; default: the current one)"),
  "queue": (str, "NAME", "Kueue's LocalQueue (text; default: none)"),
  "cluster_queue": (
    str,
    "NAME",
    "makes the LocalQueue, which waits in this ClusterQueue (text; default: none is made)",
  ),
  "service_account": (str, "NAME", "that may read and write the buckets (text; default: the target's)"),
  "claim": (str, "NAME", "PersistentVolumeClaim, mounted at /mnt/claim (text; default: none)"),
  "runtime": (str, "VERSION", "software of a TPU VM (text; default: none)"),
  "machine_type": (str, "TYPE", "of Compute Engine (text; default: none)"),
  "machine_image": (
    str,
    "PROJECT/FAMILY",
    "that has docker, gcloud and gcsfuse (text; default: none)",
  ),
}


def add(commands: Any) -> None:
  """Adds the `launch` command to the command line."""
  parser = command(
    commands,
    "launch",
    "launch.launch",
    "show what would be submitted to start a run elsewhere; with --yes, submit it",
  )
  about = "; ".join(f"{name}: {target.help}" for name, target in TARGETS.items())
  parser.add_argument("target", choices=tuple(TARGETS), metavar="TARGET", help=f"where to: {about} (text)")
  config_options(parser, buckets=True)
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    help="folder of the run, as machines see it; gs://BUCKET/PATH is mounted (path; default: runs/CONFIG)",
  )
  for field, (kind, metavar, text) in OPTIONS.items():
    parser.add_argument(f"--{field.replace('_', '-')}", type=kind, metavar=metavar, help=text)
  _slurm_lines(parser)
  parser.add_argument(
    "--spot", action="store_true", help="machines that may be preempted (flag; default: no)"
  )
  run_options(parser, handed_on=True)
  _acting(parser)


def _slurm_lines(parser: argparse.ArgumentParser) -> None:
  """Adds the options that add lines to SLURM's batch scripts."""
  parser.add_argument(
    "--setup",
    action="append",
    metavar="LINES",
    help="shell lines that SLURM's script runs before the run, e.g. 'source /shared/venv/bin/activate'; a "
    "line that fails ends the job; repeat it for more (text; default: none)",
  )
  parser.add_argument(
    "--setup-file",
    action="append",
    dest="setup",
    type=_lines_of,
    metavar="FILE",
    help="the same from a file, whose text is copied into the script (path; default: none)",
  )
  parser.add_argument(
    "--sbatch",
    action="append",
    metavar="NAME=VALUE",
    help="a further #SBATCH line, e.g. qos=high or exclusive; repeat it for more (text; default: none)",
  )


def _lines_of(path: str) -> str:
  """Reads a file of shell lines."""
  try:
    return local_path(path).read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
    raise argparse.ArgumentTypeError(
      f"cannot read {path!r}: {reason}; expected a file of shell lines"
    ) from None


def _acting(parser: argparse.ArgumentParser) -> None:
  """Adds the options that say what to do with the plan."""
  parser.add_argument(
    "--dry-run",
    action="store_true",
    help="print files and commands, and stop (flag; default: the same, with a hint)",
  )
  parser.add_argument(
    "--yes", action="store_true", help="write the files and run the commands (flag; default: only print them)"
  )
  parser.add_argument(
    "--write",
    type=local_path,
    metavar="DIR",
    help="folder for the files (path; default: runs/launch/NAME, with --yes)",
  )


def job_of(
  options: argparse.Namespace, *, name: str, workdir: str, arms: Sequence[str], seeds: Sequence[int]
) -> tuple[Job, list[str]]:
  """Builds the job that the options describe.

  Args:
    options: the parsed options.
    name, workdir: defaults for `--name` and `--workdir`; any text can be turned into a name.
    arms, seeds: all arms and seeds of the config.

  Returns:
    The job, and the fields that the user set, which a target must respect.

  Raises:
    ConfigError: a value cannot be used.
  """
  given: dict[str, Any] = {
    field: value for field in OPTIONS if (value := getattr(options, field)) is not None
  }
  given |= {field: tuple(lines) for field in ("setup", "sbatch") if (lines := getattr(options, field))}
  if options.spot:
    given["spot"] = True
  whole = options.target == "slurm-array"  # one task per arm and seed, so all are named
  fields: dict[str, Any] = {"name": label(name), **given}
  job = Job(
    config=str(options.config),
    workdir=options.workdir or workdir,
    overrides=tuple(options.overrides),
    run_options=tuple(_run_options(options)),
    arms=tuple(options.arms or (arms if whole else ())),
    seeds=tuple(options.seeds or (seeds if whole else ())),
    data_dir=options.data_dir,
    **fields,
  )
  return job, list(given)


def _run_options(options: argparse.Namespace) -> list[str]:
  """Returns the options that are passed on to `jaxtl run` unchanged."""
  found = []
  limits = dict(hang_limit=options.hang_limit, gather_limit=options.gather_limit, heartbeat=options.heartbeat)
  for name, limit in limits.items():
    if limit is not None:
      option = "--" + name.replace("_", "-")
      found.append(f"{option}={limit:g}")
  if options.num_devices is not None:
    found.append(f"--num-devices={options.num_devices}")
  if options.model_devices != 1:
    found.append(f"--model-devices={options.model_devices}")
  if options.cpu_devices is not None:
    found.append(f"--cpu-devices={options.cpu_devices}")
  return found + (["--trust"] if options.trust else []) + (["--no-report"] if options.no_report else [])

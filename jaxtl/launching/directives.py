"""Lines that a user adds to the head of a batch script for SLURM: `#SBATCH --NAME=VALUE`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from jaxtl.errors import ConfigError

_EXAMPLE = "write a line like qos=high or exclusive"
_LINE = re.compile(r"(?:#SBATCH\s+)?(?:--)?(?P<name>[a-z][a-z0-9-]*)(?:(?:=|\s+)(?P<value>.*))?")
_GPUS = "--chips and --accelerator"
# What the scripts set themselves -> what to write instead.
_OWN = {
  "job-name": "--name",
  "array": "the target slurm-array",
  "account": "--account",
  "partition": "--partition",
  "nodes": "--nodes",
  "ntasks": "--processes-per-node",
  "ntasks-per-node": "--processes-per-node",
  "cpus-per-task": "--cpus",
  "gpus": _GPUS,
  "gpus-per-node": _GPUS,
  "mem": "--memory",
  "time": "--time-limit",
  "signal": "--grace",
  "requeue": "--retries",
  "no-requeue": "--retries 0",
}
_NOT_OF_SCRIPTS = {"help", "parsable", "test-only", "usage", "version", "wrap"}
# The other long options in the manual page of sbatch 22.05, later ones, and those of NVIDIA's plug-in pyxis.
_NAMES = """
acctg-freq batch bb bbf begin chdir cluster-constraint clusters comment constraint container
container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu deadline delay-boot
dependency distribution error exclude exclusive export export-file extra extra-node-info get-user-env
gid gpu-bind gpu-freq gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs input
kill-on-invalid-dep licenses mail-type mail-user mcs-label mem-bind mem-per-cpu mem-per-gpu mincpus
network nice no-kill nodefile nodelist ntasks-per-core ntasks-per-gpu ntasks-per-socket open-mode
oom-kill-step output overcommit oversubscribe power prefer priority profile propagate qos quiet reboot
reservation segment sockets-per-node spread-job stepmgr switches thread-spec threads-per-core time-min
tmp tres-bind tres-per-task uid use-min-nodes verbose wait wait-all-nodes wckey container-image
container-mounts container-workdir container-name container-save container-mount-home
container-remap-root container-entrypoint container-writable container-readonly container-env
"""
_KNOWN = set(_NAMES.split())


def parse(lines: Sequence[str]) -> dict[str, str]:
  """Parses the lines that `--sbatch` gave.

  A name that is not one of sbatch's is kept, because the plug-ins of a site add options; one that resembles a
  known name is taken for a misspelling.

  Args:
    lines: NAME or NAME=VALUE; `--` or `#SBATCH --` may precede it, as in a batch script.

  Returns:
    Name -> value; an empty text for an option without a value.

  Raises:
    ConfigError: a line is malformed or misspelt, occurs twice, or sets what another option sets.

  >>> parse(["qos=high", "#SBATCH --exclusive"])
  {'qos': 'high', 'exclusive': ''}
  """
  found: dict[str, str] = {}
  for line in lines:
    name, value = _parsed(line)
    if name in found:
      raise ConfigError(f"--sbatch sets {name} twice; write it once")
    found[name] = value
  return found


def quoted(value: str) -> str:
  """Quotes a value as SLURM reads it in a script: a blank would end it, and quotes protect blanks."""
  return f'"{value}"' if " " in value else value


def _parsed(line: str) -> tuple[str, str]:
  if not line.isprintable():
    raise ConfigError(f"--sbatch is {line!r}, which has a line break or control character; {_EXAMPLE}")
  if re.match(r"(#SBATCH\s+)?-\w", line.strip()):
    raise ConfigError(f"--sbatch is {line!r}; expected the option's long name, so {_EXAMPLE}")
  match = _LINE.fullmatch(line.strip())
  if match is None:
    raise ConfigError(f"--sbatch is {line!r}; expected OPTION or OPTION=VALUE of sbatch, so {_EXAMPLE}")
  name, value = match["name"], (match["value"] or "").strip()
  if "=" in line and not value:
    raise ConfigError(f"--sbatch is {line!r}, whose value is empty; {_EXAMPLE}")
  if value[:1] in ("'", '"') and value[-1] == value[0] and len(value) > 1:
    value = value[1:-1]
  if re.search(r"""['"\\]""", value):
    raise ConfigError(
      f"--sbatch is {line!r}, whose value has a quote or backslash; write it without, as in comment=two words"
    )
  _check_name(name, value)
  return name, value


def _check_name(name: str, value: str) -> None:
  own = _GPUS if name == "gres" and "gpu" in value else _OWN.get(name)
  if own:
    raise ConfigError(f"--sbatch sets {name}, which the script sets itself; use {own} instead")
  if name in _NOT_OF_SCRIPTS:
    raise ConfigError(f"--sbatch sets {name}, which is for sbatch's command line; leave it out")
  if name in _KNOWN:
    return
  cutoff = 0.65 if len(name) <= 4 else 0.75  # so that `qso` resembles `qos`, of which it has two letters
  if near := difflib.get_close_matches(name, sorted(_KNOWN | set(_OWN)), n=1, cutoff=cutoff):
    instead = f"use {_OWN[near[0]]} instead" if near[0] in _OWN else f"did you mean {near[0]!r}?"
    raise ConfigError(f"--sbatch sets {name!r}, which sbatch does not have; {instead}")

"""The targets: the renderer of each, and the job fields that it supports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath

from jaxtl.errors import ConfigError
from jaxtl.launching import compute, kubernetes, local, skypilot, slurm
from jaxtl.launching.job import Job, refuse_unused
from jaxtl.launching.plan import LaunchPlan


def _fields(names: str) -> frozenset[str]:
  return frozenset(names.split())


EVERYWHERE = _fields("config name workdir overrides run_options arms seeds data_dir retries")
_CLOUD = _fields("image nodes port")
_SLURM = _fields(
  "image nodes accelerator chips processes_per_node cpus memory time_limit grace"
  " partition account setup sbatch"
)
_NAMES = {"queue": "partition", "project": "account"}  # SLURM's own words
_TPU = _CLOUD | _fields("accelerator grace project zone runtime service_account spot")


@dataclasses.dataclass(frozen=True)
class LaunchTarget:
  """A way to start a run.

  Attributes:
    plan: makes the files and commands; the folder is where the files will be.
    takes: the supported fields of a job, in addition to those that all targets support.
    help: a short description.
    instead: an unsupported field -> the supported one that means the same here.
  """

  plan: Callable[[Job, PurePath], LaunchPlan]
  takes: frozenset[str]
  help: str
  instead: Mapping[str, str] = dataclasses.field(default_factory=dict)


TARGETS: dict[str, LaunchTarget] = {
  "gke": LaunchTarget(
    kubernetes.jobset,
    _CLOUD
    | _fields(
      "accelerator chips topology cpus memory grace namespace queue cluster_queue service_account claim spot"
    ),
    "JobSet by kubectl",
  ),
  "xpk": LaunchTarget(
    kubernetes.xpk,
    _CLOUD | _fields("accelerator grace project zone cluster namespace spot"),
    "JobSet by xpk",
  ),
  "gce": LaunchTarget(
    compute.instance_group,
    _CLOUD
    | _fields(
      "accelerator chips topology grace project zone service_account machine_type machine_image spot"
    ),
    "managed instance group",
  ),
  "tpu-vm": LaunchTarget(compute.tpu_vm, _TPU, "TPU VM"),
  "queued-resource": LaunchTarget(compute.queued_resource, _TPU, "TPU VM from the queue"),
  "slurm": LaunchTarget(slurm.train, _SLURM, "batch job", _NAMES),
  "slurm-array": LaunchTarget(slurm.array, _SLURM, "a task for each arm and seed", _NAMES),
  "skypilot": LaunchTarget(
    skypilot.task, _CLOUD | _fields("accelerator chips cpus memory zone spot"), "managed job"
  ),
  "local": LaunchTarget(local.run_n, frozenset({"processes_per_node", "port"}), "processes on this machine"),
}


def render(target: str, job: Job, folder: PurePath, *, given: Iterable[str] = ()) -> LaunchPlan:
  """Returns everything that a launch writes and runs.

  Args:
    target: a key of `TARGETS`.
    job: what to run.
    folder: where the files will be.
    given: the fields that the user set; a field that the target would ignore is refused.

  Raises:
    ConfigError: the target does not exist, or an option is missing, invalid or would be ignored.
  """
  if target not in TARGETS:
    raise ConfigError(f"no target {target!r}; expected one of {', '.join(TARGETS)}")
  fields = [field.name for field in dataclasses.fields(Job)]
  others = {field: ", ".join(name for name in TARGETS if field in TARGETS[name].takes) for field in fields}
  refuse_unused(target, given, EVERYWHERE | TARGETS[target].takes, others, TARGETS[target].instead)
  return TARGETS[target].plan(job, folder)

"""Detects whether a process is one of several, and how the processes find each other.

The answer comes from the options or from the variables that a launcher sets. This module reads only the
environment and does not import JAX, so that `jaxtl doctor` can report what it sees, and why.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping

from jaxtl.errors import ConfigError

# Launcher -> its variables for the number of processes and for the rank of this one.
LAUNCHERS = {
  "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
  "MPICH or Intel MPI": ("PMI_SIZE", "PMI_RANK"),
  "MVAPICH2": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
  "jsrun": ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
  "Flux": ("FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
  "Horovod": ("HOROVOD_SIZE", "HOROVOD_RANK"),
  "torchrun": ("WORLD_SIZE", "RANK"),
  "JAX's own variables": ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
  "a JAXJob": ("NUM_PROCESSES", "PROCESS_ID"),
}


@dataclasses.dataclass(frozen=True)
class Cluster:
  """The processes of a run.

  Attributes:
    why: how this was determined, for people.
    coordinator: HOST:PORT of process 0, with an IPv6 address in brackets; None if JAX finds it.
    num_processes: the number of processes; None if JAX finds it. 1 means a run that stands alone.
    process_id: the index of this process; None if JAX finds it.
    number: the index used in file names; 0 if it is unknown.
  """

  why: str
  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  number: int = 0

  @property
  def alone(self) -> bool:
    return self.num_processes == 1


def detect(
  environment: Mapping[str, str],
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Cluster:
  """Determines the processes of a run from the options or from the environment.

  Options take precedence over SLURM, and SLURM over TPU hosts. An environment with only some of the variables
  means one process. `--num-processes 1` alone means that this process trains alone, whatever started it.

  Args:
    environment: the environment variables of the process.
    coordinator, num_processes, process_id: the options of the command.

  Raises:
    ConfigError: only some of the three options are given, the numbers are inconsistent, or a launcher started
      processes that would each train alone.
  """
  given = {
    "--coordinator": coordinator,
    "--num-processes": num_processes,
    "--process-id": process_id,
  }
  if num_processes == 1 and coordinator is None and process_id is None:
    return Cluster("--num-processes 1", num_processes=1)
  if any(value is not None for value in given.values()):
    return _from_options(given, coordinator, num_processes, process_id)
  if "SLURM_JOB_ID" in environment:
    found = _from_slurm(environment)
    # srun sets MPI variables too. If mpirun runs inside a job, SLURM counts its daemons as tasks.
    _refuse_launcher(environment, tasks="1" if found.alone else environment["SLURM_STEP_NUM_TASKS"])
    return found
  hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
  if len(hosts) > 1:
    why = f"TPU_WORKER_HOSTNAMES names {len(hosts)} hosts; JAX asks the TPU's metadata for the rest"
    return Cluster(why, number=_number(environment, "TPU_WORKER_ID"))
  if "MEGASCALE_COORDINATOR_ADDRESS" in environment:
    return Cluster("MEGASCALE_COORDINATOR_ADDRESS is set: several TPU slices, found by JAX")
  _refuse_launcher(environment, tasks="1")
  if "JOB_COMPLETION_INDEX" in environment:
    index = environment["JOB_COMPLETION_INDEX"]
    return Cluster(
      f"a Kubernetes job of index {index}, but no --coordinator: every pod trains alone", num_processes=1
    )
  return Cluster("no launcher of several processes was found", num_processes=1)


def _refuse_launcher(environment: Mapping[str, str], *, tasks: str) -> None:
  """Raises ConfigError if a launcher started several processes, but not `tasks` of them."""
  for launcher, (size, rank) in LAUNCHERS.items():
    count = environment.get(size, "")
    if rank in environment and count.isdecimal() and count not in ("0", "1", tasks):
      raise ConfigError(
        f"{size} is {count[:20]}: {launcher} started several processes, and each would train alone; write "
        f"--coordinator HOST:PORT --num-processes {count[:20]} --process-id ${rank} with the host of process "
        "0, or --num-processes 1 if each is to train alone"
      )


def _from_options(
  given: Mapping[str, object], coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Cluster:
  if coordinator is None or num_processes is None or process_id is None:
    have = ", ".join(name for name, value in given.items() if value is not None)
    lack = ", ".join(name for name, value in given.items() if value is None)
    raise ConfigError(f"{have} without {lack}; several processes need all three, one process none of them")
  host, _, port = coordinator.rpartition(":")
  if not _is_host(host) or not port.isdecimal() or not 0 < int(port) < 65536:
    raise ConfigError(
      f"--coordinator is {coordinator!r}; expected process 0's HOST:PORT, like 10.0.0.2:80 or [fd00::2]:80"
    )
  if not 0 <= process_id < num_processes:
    raise ConfigError(
      f"--process-id is {process_id} of --num-processes {num_processes}; expected 0 to {num_processes - 1}"
    )
  why = "--coordinator, --num-processes and --process-id"
  return Cluster(why, coordinator, num_processes, process_id, process_id)


def _is_host(text: str) -> bool:
  """Returns whether the text is a name, an IPv4 address, or an IPv6 address in brackets.

  Without brackets, the end of an IPv6 address reads like a port.
  """
  if not any(letter in text for letter in ":[]"):
    return bool(text)
  try:
    ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]"))
  except ValueError:
    return False
  return text.startswith("[") and text.endswith("]")


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
  """Detects a task of `srun`.

  A shell that `salloc` opened has the variables of the job but not those of the step.
  """
  needed = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
  missing = [name for name in needed if name not in environment]
  job = environment["SLURM_JOB_ID"]
  if missing:
    why = f"SLURM job {job} without {missing[0]}: not a task of srun, so one process"
    return Cluster(why, num_processes=1)
  tasks = environment["SLURM_STEP_NUM_TASKS"]
  if tasks == "1":
    return Cluster(f"SLURM job {job} with one task", num_processes=1)
  task = environment["SLURM_PROCID"]
  why = f"SLURM job {job}, task {task} of {tasks}; JAX asks SLURM for the rest"
  return Cluster(why, number=_number(environment, "SLURM_PROCID"))


def _number(environment: Mapping[str, str], name: str) -> int:
  text = environment.get(name, "")
  return int(text) if text.isdecimal() else 0

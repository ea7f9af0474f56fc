"""Batch scripts for SLURM: one run, or one array task for each arm with each seed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath

from jaxtl.launching import directives, shell
from jaxtl.launching.job import Job, refuse_buckets
from jaxtl.launching.plan import File, LaunchPlan

# CPUs of a process that has an accelerator. SLURM's own default is one core, too few to decode its images.
# Common nodes have eight or more cores for each GPU.
CPUS = 8
# Lines of --sbatch that the report's job has no use for: it computes on one core.
_NOT_OF_REPORT = re.compile(
  r".*gpu.*|tres-.*|exclusive|nodelist|mincpus|dependency|ntasks-.*|hint|distribution"
)
# The peers of a task that fails for good end with 42.
_TASK = """\
# srun ends with the largest exit code of its tasks; 42 would hide those below it, so a task lifts them by 64.
task='trap : TERM; "$@"; rc=$?; if [ "$rc" -gt 0 ] && [ "$rc" -lt 42 ]; then rc=$((rc + 64)); fi; exit "$rc"'
"""
# An untrapped SIGTERM ends this script, so that `scancel JOB` does not requeue a job that the user has ended.
_END = """\
rc=$?
if [ "$rc" -gt 64 ] && [ "$rc" -lt 106 ]; then rc=$((rc - 64)); fi
# Exit code 42 asks for another start; nothing else does. `scancel JOB` ends this script before it gets here.
if [ "$rc" -eq 42 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {retries} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$rc"
"""


def train(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans one job for one run: one process per task, found by JAX through SLURM."""
  refuse_buckets(job, who="SLURM", instead="a folder that all nodes share")
  script = (
    _directives(job, log="%j") + "\n" + _setup(job) + _TASK + _srun(job, shell.run_words(job)) + _end(job)
  )
  return LaunchPlan(
    files=(File("train.sbatch", script),),
    commands=(("sbatch", str(folder / "train.sbatch")),),
    programs=("sbatch",),
    later=_later(job),
  )


def array(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans one array task, with its own folder, for each arm with each seed, and a report of all."""
  refuse_buckets(job, who="SLURM", instead="a folder that all nodes share")
  tasks = len(job.arms) * len(job.seeds)
  script = (
    _directives(job, log="%A_%a", array=f"0-{tasks - 1}")
    + f"""
# One task for each arm with each seed.
arms=({" ".join(shell.quote(job.arms))})
seeds=({" ".join(map(str, job.seeds))})
arm="${{arms[SLURM_ARRAY_TASK_ID / ${{#seeds[@]}}]}}"
seed="${{seeds[SLURM_ARRAY_TASK_ID % ${{#seeds[@]}}]}}"
# A folder serves one run at a time, so each task has its own.
workdir={shlex.quote(job.workdir + "/tasks")}/"$SLURM_ARRAY_TASK_ID"

"""
    + _setup(job)
  )
  own = ('--workdir="$workdir"', '--arms="$arm"', '--seeds="$seed"', "--no-report")
  words = [word for word in shell.run_words(job, limit=False) if word != "--no-report"]
  script += _TASK + _srun(job, words, *own) + _end(job)
  return LaunchPlan(
    files=(File("array_sweep.sbatch", script), File("report.sbatch", _report(job))),
    commands=tuple(("sbatch", str(folder / name)) for name in ("array_sweep.sbatch", "report.sbatch")),
    programs=("sbatch",),
    later=_later(job),
  )


def _directives(job: Job, *, log: str, array: str | None = None) -> str:
  """Returns the head of the script.

  It requests one process per accelerator, and each process sees all accelerators of its node, as JAX expects.
  """
  gpus = f"{job.accelerator}:{job.chips}" if job.accelerator else job.chips
  return _head(
    {
      "job-name": job.name,
      "array": array,
      "account": job.account,
      "partition": job.partition,
      "nodes": job.nodes,
      "ntasks-per-node": job.processes_per_node or max(job.chips, 1),
      "cpus-per-task": _cpus(job),
      "gpus-per-node": gpus if job.chips else None,
      "mem": f"{job.memory}G" if job.memory else None,
      "time": job.time_limit,
      "signal": f"TERM@{job.grace}",
      "requeue": "",
      "open-mode": "append",
      "output": f"{job.name}-{log}.log",
      **directives.parse(job.sbatch),
    }
  )


def _cpus(job: Job) -> int | None:
  """Returns the CPUs of a process; None leaves them to SLURM."""
  return job.cpus or (CPUS if job.chips else None)


def _setup(job: Job) -> str:
  """Returns the user's lines; the job ends at the first that fails, with its exit code.

  A trap rather than `set -e`, under which many a module or conda script would end the job.
  """
  if not job.setup:
    return ""
  lines = "".join(text.rstrip("\n") + "\n" for text in job.setup)
  return f"""\
# Lines of --setup; srun passes their environment on.
setup_failed() {{
  [[ " ${{FUNCNAME[*]}} " != *" source "* ]] || return 0 # of a sourced file, its last exit code counts
  echo "jaxtl: --setup failed with exit code $1: $BASH_COMMAND" >&2
  exit "$1"
}}
trap 'setup_failed "$?"' ERR
{lines}trap - ERR

"""


def _head(options: Mapping[str, str | int | None]) -> str:
  """Formats the lines that SLURM reads.

  None omits an option, and an empty text is an option without a value.
  """
  given = {name: value for name, value in options.items() if value is not None}
  lines = (
    f"#SBATCH --{name}={directives.quoted(str(value))}\n" if value != "" else f"#SBATCH --{name}\n"
    for name, value in given.items()
  )
  return shell.HEADER + "".join(lines)


def _srun(job: Job, words: list[str], *extra: str) -> str:
  """Returns the job step.

  A failing task leaves the others time to save: they notice within 10 s.
  """
  start = "srun --kill-on-bad-exit=0 --wait=0"
  if cpus := _cpus(job):
    start += f" --cpus-per-task={cpus}"  # since SLURM 22.05 a step does not inherit it from the job
  if job.chips:
    start += " --gpu-bind=none"
  run, config, *rest = shell.quote(words)
  program = _program(job, " --nv" if job.chips else "")
  return shell.lines([f'{start} bash -c "$task" task', f"{program} {run} {config}", *rest, *extra]) + "\n"


def _program(job: Job, flags: str = "") -> str:
  """Returns the command that stands for `jaxtl`: the program itself, or its container."""
  return f"apptainer exec{flags} docker://{job.image} jaxtl" if job.image else "jaxtl"


def _end(job: Job) -> str:
  return _END.format(retries=job.retries)


def _report(job: Job) -> str:
  """Returns a job that merges the folders of the tasks when the array is done.

  It waits because it has the same job name as the array. The script does not use `cp -n`: that would keep
  files that already exist, and it fails for them with coreutils 9.2 to 9.4. A task that has since run again
  must replace what it wrote before.
  """
  head = {
    "job-name": job.name,
    "account": job.account,
    "partition": job.partition,
    "ntasks": 1,
    "dependency": "singleton",
    "output": f"{job.name}-report-%j.log",
  }
  extra = directives.parse(job.sbatch)
  head |= {name: value for name, value in extra.items() if not _NOT_OF_REPORT.fullmatch(name)}
  data = [shlex.quote(f"--data-dir={job.data_dir}")] if job.data_dir else []
  trust = ["--trust"] if "--trust" in job.run_options else []
  report = " ".join([_program(job), "report", '"$workdir"', *data, *trust])
  return f"""\
{_head(head)}
{_setup(job)}set -eu
workdir={shlex.quote(job.workdir)}
for task in "$workdir"/tasks/*/; do cp -R -u "$task." "$workdir"; done
{report}
"""


def _later(job: Job) -> tuple[tuple[str, ...], ...]:
  return (("squeue", f"--name={job.name}"), ("scancel", f"--name={job.name}"))

"""A managed job of SkyPilot, on any cloud that it finds."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from jaxtl.errors import ConfigError
from jaxtl.launching import manifest, shell
from jaxtl.launching.job import Job, bucket
from jaxtl.launching.plan import File, LaunchPlan

# SkyPilot sends usage statistics unless this disables them.
_QUIET = ("env", "SKYPILOT_DISABLE_USAGE_COLLECTION=1")


def task(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans a task that restarts itself on exit code 42; SkyPilot itself recovers lost machines.

  SkyPilot's `recover_on_exit_codes` has no limit, so the task enforces the limit.
  """
  job.need("skypilot", image="registry.example/jaxtl:0.1.0")
  if not bucket(job.workdir):
    raise ConfigError(
      f"--workdir is {job.workdir!r}, which is lost with its machine; skypilot needs gs://BUCKET/PATH"
    )
  return LaunchPlan(
    files=(File("task.yaml", manifest.dump(_task(job))),),
    commands=((*_QUIET, "sky", "jobs", "launch", "--yes", f"--name={job.name}", str(folder / "task.yaml")),),
    programs=("sky",),
    later=(
      (*_QUIET, "sky", "jobs", "logs", f"--name={job.name}"),
      (*_QUIET, "sky", "jobs", "cancel", f"--name={job.name}"),
    ),
  )


def _task(job: Job) -> dict[str, Any]:
  resources: dict[str, Any] = {"image_id": f"docker:{job.image}"}
  if job.zone:
    resources |= {"infra": f"gcp/{job.zone.rpartition('-')[0]}/{job.zone}"}
  if job.accelerator:
    resources |= {"accelerators": f"{job.accelerator}:{job.chips}" if job.chips else job.accelerator}
  if job.cpus:
    resources |= {"cpus": f"{job.cpus}+"}
  if job.memory:
    resources |= {"memory": f"{job.memory}+"}
  if job.spot:
    resources |= {"use_spot": True}
  mounts = {
    f"{shell.BUCKETS}/{name}": {"source": f"gs://{name}", "mode": "MOUNT"} for name in shell.buckets(job)
  }
  return {
    "name": job.name,
    "workdir": ".",  # uploads the config
    "num_nodes": job.nodes,
    "resources": resources,
    "file_mounts": mounts,
    "run": _script(job),
  }


def _script(job: Job) -> str:
  wait, extra = "", []
  if job.nodes > 1:
    wait = shell.wait_for("$host", str(job.port), "$SKYPILOT_NODE_RANK")
    extra = shell.processes(f"$host:{job.port}", str(job.nodes), "$SKYPILOT_NODE_RANK")
  first = 'host=$(head -n 1 <<< "$SKYPILOT_NODE_IPS")\n' if job.nodes > 1 else ""
  command = shell.command(job, *extra, program=["exec jaxtl"], indent="  ")
  return first + shell.run_function(command, wait) + shell.restart_loop(job.retries)

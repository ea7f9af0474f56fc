"""Google's virtual machines: a managed instance group and, for older chips, TPU VMs and queued resources.

Each machine runs one script, the worker, as its own systemd unit. The unit outlives the connection that
started it, and receives SIGTERM when the machine is taken away.
"""

from __future__ import annotations

import textwrap
from pathlib import PurePath

from jaxtl.errors import ConfigError
from jaxtl.launching import shell
from jaxtl.launching.job import Job, bucket
from jaxtl.launching.plan import File, LaunchPlan

LONGEST = 50  # machines are called NAME-INDEX, and a label has at most 63 characters
_HERE = shell.HEADER + 'set -eu\ncd "$(dirname "$0")"\n'
_METADATA = """\
metadata() {
  curl --fail --silent --header "Metadata-Flavor: Google" \\
    "http://metadata.google.internal/computeMetadata/v1/instance/$1"
}
"""
_MOUNT = """\
mountpoint --quiet {path} || {{
  mkdir -p {path}
  gcsfuse --implicit-dirs --uid={user} --gid={user} -o allow_other {name} {path} || exit 1
}}
"""
_OF_SLICE = """\
# The hosts of a slice, in the order of their numbers, as `name:id:address` or as names alone.
index=$(metadata attributes/agent-worker-number) || exit 1
hosts=$(metadata attributes/worker-network-endpoints) || exit 1
host="${hosts%%,*}"
host="${host##*:}"
"""
_OF_GROUP = """\
# Machines are called NAME-INDEX, and keep their names when the group recreates them.
self=$(metadata name) || exit 1
index="${self##*-}"
host="${self%-*}-0"
"""


def instance_group(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans a managed instance group that recreates lost machines; each starts the worker when it boots."""
  job.need("gce", image="registry.example/jaxtl:0.1.0", project="my-project", zone="us-east5-b")
  job.need("gce", machine_type="ct6e-standard-4t", machine_image="my-project/my-image-family")
  _check(job, "gce")
  worker = _worker(job, _OF_SLICE if job.topology else _OF_GROUP)
  return LaunchPlan(
    files=(
      File("mig.sh", _create_group(job)),
      File("startup.sh", shell.HEADER + _as_unit(job) + worker),
      File("delete.sh", _delete_group(job)),
    ),
    commands=(("bash", str(folder / "mig.sh")),),
    programs=("bash", "gcloud"),
    later=(("bash", str(folder / "delete.sh")),),
  )


def tpu_vm(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans a TPU VM, with one script each to create it, start the run, follow its logs and delete it."""
  return _tpu(job, folder, "tpu-vm", _create_vm(job))


def queued_resource(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans the same TPU VM as a queued resource, and waits until it is active."""
  return _tpu(job, folder, "queued-resource", _create_queued(job))


def _tpu(job: Job, folder: PurePath, target: str, create: str) -> LaunchPlan:
  job.need(target, image="registry.example/jaxtl:0.1.0", project="my-project", zone="us-central2-b")
  job.need(target, accelerator="v4-32", runtime="tpu-ubuntu2204-base")
  _check(job, target)
  return LaunchPlan(
    files=(
      File("create.sh", create),
      File("worker.sh", shell.HEADER + _worker(job, _OF_SLICE)),
      File("run.sh", _run(job)),
      File("logs.sh", _HERE + _ssh(job, f"sudo journalctl --unit={_unit(job)} --follow")),
      File("delete.sh", _delete_tpu(job, target)),
    ),
    commands=(("bash", str(folder / "create.sh")), ("bash", str(folder / "run.sh"))),
    programs=("bash", "gcloud"),
    later=(("bash", str(folder / "logs.sh")), ("bash", str(folder / "delete.sh"))),
  )


def _check(job: Job, target: str) -> None:
  job.short(LONGEST, "machines have longer names")
  if not bucket(job.workdir):
    raise ConfigError(
      f"--workdir is {job.workdir!r}, which is lost with its machine; {target} needs gs://BUCKET/PATH"
    )


def _gcloud(job: Job, verbs: str, *words: str | None, at: str | None = None) -> str:
  """Formats a gcloud command for the job's project and zone.

  Args:
    job: the job.
    verbs: the gcloud subcommands, used unchanged.
    *words: positional arguments, options and flags; None is omitted.
    at: an option that replaces the zone option; an empty text omits it.
  """
  place = f"--zone={job.zone}" if at is None else at
  given = [word for word in (*words, place, f"--project={job.project}") if word]
  # Flags without a value come last, as gcloud's own checker expects.
  given.sort(key=lambda word: word.startswith("--") and "=" not in word)
  first, *rest = shell.quote(given)
  return shell.lines([f"gcloud {verbs} {first}", *rest]) + "\n"


def _account(job: Job) -> str | None:
  return f"--service-account={job.service_account}" if job.service_account else None


def _create_vm(job: Job) -> str:
  return _HERE + _gcloud(
    job,
    "compute tpus tpu-vm create",
    job.name,
    f"--accelerator-type={job.accelerator}",
    f"--version={job.runtime}",
    _account(job),
    "--spot" if job.spot else None,
  )


def _create_queued(job: Job) -> str:
  create = _gcloud(
    job,
    "compute tpus queued-resources create",
    job.name,
    f"--node-id={job.name}",
    f"--accelerator-type={job.accelerator}",
    f"--runtime-version={job.runtime}",
    _account(job),
    "--spot" if job.spot else None,
  )
  state = _gcloud(job, "compute tpus queued-resources describe", job.name, "--format=value(state.state)")
  return f"""\
{_HERE}{create}state() {{
{textwrap.indent(state, "  ")}}}
while true; do
  found=$(state)
  echo "$found"
  case "$found" in
    ACTIVE) exit 0 ;;
    FAILED | SUSPENDED) exit 1 ;;
  esac
  sleep 30
done
"""


def _run(job: Job) -> str:
  """Returns a script that copies the worker to the home folder of all hosts and starts it there."""
  script = f"{_unit(job)}.sh"
  copy = _gcloud(job, "compute tpus tpu-vm scp", "worker.sh", f"{job.name}:{script}", "--worker=all")
  return _HERE + copy + _ssh(job, f'sudo {_systemd_run(job)} bash "$HOME/{script}"')


def _ssh(job: Job, command: str) -> str:
  return _gcloud(job, "compute tpus tpu-vm ssh", job.name, "--worker=all", f"--command={command}")


def _delete_tpu(job: Job, target: str) -> str:
  if target == "tpu-vm":
    return _HERE + _gcloud(job, "compute tpus tpu-vm delete", job.name, "--quiet")
  return _HERE + _gcloud(job, "compute tpus queued-resources delete", job.name, "--quiet", "--force")


def _unit(job: Job) -> str:
  return f"jaxtl-{job.name}"


def _systemd_run(job: Job) -> str:
  properties = f"--property=KillMode=mixed --property=TimeoutStopSec={job.grace}"
  return f"systemd-run --collect --unit={_unit(job)} {properties}"


def _as_unit(job: Job) -> str:
  """Returns shell text that restarts the script as a unit.

  A script that the boot starts is killed without SIGTERM.
  """
  script = f"/run/{_unit(job)}.sh"
  return f"""\
if [ "${{1:-}}" != worker ]; then
  cp "$0" {script}
  exec {_systemd_run(job)} bash {script} worker
fi
"""


def _worker(job: Job, numbering: str) -> str:
  """Returns shell text that mounts the buckets, waits for process 0, and restarts the run on exit code 42.

  Args:
    job: the job.
    numbering: shell text that sets `index`, the number of this machine, and `host`, the host of process 0.
  """
  mounts = "".join(
    _MOUNT.format(path=f"{shell.BUCKETS}/{name}", user=shell.USER, name=name) for name in shell.buckets(job)
  )
  extra: list[str] = []
  head = wait = ""
  if job.nodes > 1:
    head = _METADATA + numbering
    extra = shell.processes(f"$host:{job.port}", str(job.nodes), "$index")
    wait = shell.wait_for("$host", str(job.port), "$index")
  program = [
    f"exec docker run --rm --name={_unit(job)} --network=host --privileged --ipc=host \\\n   ",
    f"--stop-timeout={job.grace} --volume={shell.BUCKETS}:{shell.BUCKETS}",
    *(["--gpus=all"] if job.chips else []),
    f"\\\n    {job.image}",
  ]
  command = shell.command(job, *extra, program=program, indent="  ")
  registry = (job.image or "").partition("/")[0]
  return f"""\
{head}{mounts}gcloud auth configure-docker {registry} --quiet || true # other registries need no such thing
docker rm --force {_unit(job)} 2> /dev/null
{shell.run_function(command, wait)}{shell.restart_loop(job.retries)}"""


def _create_group(job: Job) -> str:
  project, _, family = (job.machine_image or "").partition("/")
  if not family or "/" in family:
    raise ConfigError(f"--machine-image is {job.machine_image!r}; expected PROJECT/FAMILY")
  template = _gcloud(
    job,
    "compute instance-templates create",
    job.name,
    f"--machine-type={job.machine_type}",
    f"--image-project={project}",
    f"--image-family={family}",
    f"--accelerator=type={job.accelerator},count={max(job.chips, 1)}" if job.accelerator else None,
    "--provisioning-model=SPOT" if job.spot else None,
    _account(job),
    "--maintenance-policy=TERMINATE",
    "--scopes=cloud-platform",
    "--metadata-from-file=startup-script=startup.sh",
    at="",
  )
  return _HERE + template + (_slice(job) if job.topology else _machines(job))


def _slice(job: Job) -> str:
  """Creates the group of a TPU slice.

  Its machines are created together, and connected as the workload policy says.
  """
  region = _region(job)
  policy = _gcloud(
    job,
    "compute resource-policies create workload-policy",
    job.name,
    "--type=high-throughput",
    f"--accelerator-topology={job.topology}",
    at=f"--region={region}",
  )
  return policy + _gcloud(
    job,
    "compute instance-groups managed create",
    job.name,
    f"--template={job.name}",
    f"--size={job.nodes}",
    f"--workload-policy=projects/{job.project}/regions/{region}/resourcePolicies/{job.name}",
  )


def _machines(job: Job) -> str:
  """Creates the group of machines whose names contain their indices."""
  create = "compute instance-groups managed create"
  group = _gcloud(job, create, job.name, f"--template={job.name}", "--size=0")
  names = (f"{job.name}-{number}" for number in range(job.nodes))
  return group + "".join(_gcloud(job, f"{create}-instance", job.name, f"--instance={name}") for name in names)


def _region(job: Job) -> str:
  return (job.zone or "").rpartition("-")[0]


def _delete_group(job: Job) -> str:
  group = _gcloud(job, "compute instance-groups managed delete", job.name, "--quiet")
  template = _gcloud(job, "compute instance-templates delete", job.name, "--quiet", at="")
  at = f"--region={_region(job)}"
  policy = (
    _gcloud(job, "compute resource-policies delete", job.name, "--quiet", at=at) if job.topology else ""
  )
  return _HERE + group + template + policy

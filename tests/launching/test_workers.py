"""The scripts that run on other people's machines, with stubs for docker and the metadata server."""

import os
import signal
import subprocess
import time

import pytest

from tests.launching.conftest import texts
from tests.launching.test_quoting import script_of

METADATA = """#!/usr/bin/env bash
case "$*" in
  *agent-worker-number) echo 2 ;;
  *worker-network-endpoints) echo "$ENDPOINTS" ;;
  */instance/name) echo first-1 ;;
  *) exit 22 ;;
esac
"""
RECORD = 'for word in "$@"; do printf "%s " "$word"; done >> calls; echo >> calls; '


@pytest.fixture
def machine(tmp_path):
  """A folder of stubs, and a function that runs a script among them."""
  (tmp_path / "bin").mkdir()

  def stub(name: str, text: str) -> None:
    (tmp_path / "bin" / name).write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}\n")
    (tmp_path / "bin" / name).chmod(0o755)

  for name in ("gcloud", "gcsfuse", "mountpoint", "sleep", "systemd-run"):
    stub(name, f'echo {name} "$@" >> others')
  stub("curl", METADATA)

  def start(script: str, **environment: str) -> subprocess.Popen:
    path = tmp_path / "script.sh"
    path.write_text(script)
    return subprocess.Popen(
      ["bash", "script.sh", "worker"],
      cwd=tmp_path,
      env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **environment},
      stderr=subprocess.PIPE,
      text=True,
    )

  start.stub = stub
  start.folder = tmp_path
  return start


def finish(child: subprocess.Popen) -> int:
  child.communicate(timeout=60)
  return child.returncode


def calls(machine, name: str = "calls") -> list[str]:
  return [line for line in (machine.folder / name).read_text().splitlines() if not line.startswith("rm ")]


@pytest.mark.parametrize("endpoints", ["a:b:10.0.0.5,c:d:10.0.0.6", "10.0.0.5,10.0.0.6"])
def test_a_host_of_a_slice_knows_its_number_and_the_first(plan, machine, endpoints):
  machine.stub("docker", RECORD)
  script = script_of("tpu-vm", plan("tpu-vm", nodes=4)).replace("until (: >", "until true || (: >")
  assert finish(machine(script, ENDPOINTS=endpoints)) == 0
  (call,) = calls(machine)
  assert "--coordinator=10.0.0.5:8476 --num-processes=4 --process-id=2" in call
  assert "--workdir=/mnt/gcs/my-bucket/first" in call


def test_a_machine_of_a_group_reads_its_number_off_its_name(plan, machine):
  machine.stub("docker", RECORD)
  script = script_of("gce", plan("gce", nodes=2)).replace("until (: >", "until true || (: >")
  assert finish(machine(script)) == 0
  (call,) = calls(machine)
  assert "--coordinator=first-0:8476 --num-processes=2 --process-id=1" in call
  assert "--stop-timeout=60" in call


@pytest.mark.parametrize("target", ["gce", "tpu-vm", "queued-resource", "skypilot"])
@pytest.mark.parametrize(
  ("code", "expected", "starts"), [(42, 42, 3), (0, 0, 1), (3, 3, 1), (5, 5, 1), (137, 137, 1)]
)
def test_only_42_starts_the_container_again(plan, machine, target, code, expected, starts):
  program = "jaxtl" if target == "skypilot" else "docker"
  machine.stub(program, f'[ "$1" = rm ] && exit 0; {RECORD} exit {code}')
  child = machine(script_of(target, plan(target, retries=2)))
  assert finish(child) == expected
  assert len(calls(machine)) == starts


@pytest.mark.parametrize("target", ["gce", "skypilot"])
def test_sigterm_is_passed_on_and_the_save_waited_for(plan, machine, target):
  program = "jaxtl" if target == "skypilot" else "docker"
  wait = "trap '/bin/sleep 1; touch saved; exit 42' TERM; while :; do /bin/sleep 0.1; done"
  machine.stub(program, f'[ "$1" = rm ] && exit 0; {RECORD} {wait}')
  child = machine(script_of(target, plan(target, retries=2)))
  while not (machine.folder / "calls").exists():
    time.sleep(0.05)
  time.sleep(0.3)
  child.send_signal(signal.SIGTERM)
  assert finish(child) == 42
  assert (machine.folder / "saved").exists()
  assert len(calls(machine)) == 1  # the machine goes away: nothing is started again


@pytest.mark.parametrize("target", ["slurm", "slurm-array"])
@pytest.mark.parametrize(
  ("code", "restarts", "expected", "again"),
  [
    (42, None, 42, True),
    (42, "2", 42, True),
    (42, "3", 42, False),
    (0, None, 0, False),
    (137, None, 137, False),
  ]
  + [(64 + final, None, final, False) for final in (1, 2, 3, 4, 5)],
)
def test_a_batch_script_is_queued_again_on_42_and_passes_the_code_on(
  plan, machine, target, code, restarts, expected, again
):
  machine.stub("srun", f"exit {code}")
  machine.stub("scontrol", RECORD)
  count = {} if restarts is None else {"SLURM_RESTART_COUNT": restarts}
  child = machine(script_of(target, plan(target)), SLURM_JOB_ID="17", SLURM_ARRAY_TASK_ID="1", **count)
  assert finish(child) == expected
  found = calls(machine) if (machine.folder / "calls").exists() else []
  assert found == (["requeue 17 "] if again else [])


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 67), (5, 69), (42, 42), (130, 130), (137, 137)])
def test_a_task_lifts_final_codes_above_42(plan, machine, code, expected):
  line = next(line for line in script_of("slurm", plan("slurm")).splitlines() if line.startswith("task="))
  machine.stub("jaxtl", f'[ "$1" = run ] && [ "$2" = "a b" ] && exit {code}')
  assert finish(machine(f'{line}\nbash -c "$task" task jaxtl run "a b"\n')) == expected


def test_the_report_of_a_sweep_brings_its_tasks_together(plan, machine):
  script = texts(plan("slurm-array", workdir="a sweep"))["report.sbatch"]
  # As in coreutils 9.2 to 9.4, where a file that -n leaves alone is a failure.
  machine.stub("cp", 'case "$*" in *-n*) exit 1 ;; esac; exec /bin/cp "$@"')
  machine.stub("jaxtl", RECORD)
  for number in ("0", "1"):
    cell = machine.folder / "a sweep" / "tasks" / number / f"arm{number}"
    cell.mkdir(parents=True)
    (cell / "rows.jsonl").write_text("old")
    (cell.parent / "config.json").write_text("{}")
  assert finish(machine(script)) == 0
  assert calls(machine) == ["report a sweep "]
  later = cell / "rows.jsonl"
  later.write_text("new")
  os.utime(later, (time.time() + 60, time.time() + 60))
  assert finish(machine(script)) == 0  # what was run again since is in the second report
  assert (machine.folder / "a sweep" / "arm0" / "rows.jsonl").read_text() == "old"
  assert (machine.folder / "a sweep" / "arm1" / "rows.jsonl").read_text() == "new"


def test_a_bucket_that_cannot_be_mounted_ends_the_worker(plan, machine):
  machine.stub("mountpoint", "exit 1")
  machine.stub("mkdir", "exit 0")
  machine.stub("gcsfuse", "exit 1")
  machine.stub("docker", RECORD)
  assert finish(machine(script_of("gce", plan("gce")))) == 1
  assert not (machine.folder / "calls").exists()


def test_a_group_starts_the_worker_as_a_unit_with_its_grace(plan, machine):
  machine.stub("cp", "exit 0")
  script = script_of("gce", plan("gce", grace=45)).replace('"${1:-}" != worker', '"${1:-}" = worker')
  assert finish(machine(script)) == 0
  (line,) = calls(machine, "others")
  assert line.startswith(
    "systemd-run --collect --unit=jaxtl-first --property=KillMode=mixed --property=TimeoutStopSec=45"
  )


@pytest.mark.parametrize(("state", "code"), [("ACTIVE", 0), ("FAILED", 1), ("SUSPENDED", 1)])
def test_a_queued_resource_is_waited_for(plan, machine, state, code):
  text = '[ "$4" = describe ] || exit 0; n=$(cat n 2> /dev/null || echo 0); echo $((n + 1)) > n; '
  machine.stub("gcloud", text + f'if [ "$n" -lt 2 ]; then echo PROVISIONING; else echo {state}; fi')
  assert finish(machine(texts(plan("queued-resource"))["create.sh"])) == code
  assert (machine.folder / "n").read_text().strip() == "3"

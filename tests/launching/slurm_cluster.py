"""A real SLURM on loopback: the controller and one node, of Debian's packages in a private folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGES = (
  "slurmctld",
  "slurmd",
  "slurm-client",
  "slurm-wlm-basic-plugins",
  "libmunge2",
  "libhwloc15",
  "liblua5.1-0",
)
CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
FirstJobId={first_job}
"""


def programs() -> Path:
  """The folder that the packages are unpacked in; the test skips, saying so, where they cannot be had."""
  root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxtl" / "slurm"
  if (root / "complete").exists():
    return root
  if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
    pytest.skip("needs SLURM, whose packages are Debian's: there is no apt-get or dpkg here")
  shutil.rmtree(root, ignore_errors=True)
  (root / "packages").mkdir(parents=True)
  command = ["apt-get", "download", *PACKAGES]
  try:
    done = subprocess.run(command, cwd=root / "packages", capture_output=True, text=True, timeout=120)
  except subprocess.TimeoutExpired:
    pytest.skip("needs SLURM: apt-get download takes more than two minutes")
  if done.returncode:
    pytest.skip(f"needs SLURM, whose packages cannot be had: {done.stderr.strip()[-200:]}")
  for package in (root / "packages").glob("*.deb"):
    subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
  (root / "complete").touch()
  return root


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def own_jobs() -> tuple[int, socket.socket]:
  """The first of 15 ids of jobs that no other cluster on this host has, and what is to be kept open for that.

  JAX makes the port of a job's process 0 of its id, 61440 + id % 4096: two clusters that both begin at 1 have
  their processes meet each other's.
  """
  for first in range(0, 4096, 16):
    guard = socket.socket()
    try:
      guard.bind(("127.0.0.1", 61440 + first))
    except OSError:
      guard.close()
    else:
      return first + 1, guard
  raise AssertionError("there are 256 clusters on this host")


class Slurm:
  """The daemons, and the commands that talk to them.

  Args:
    folder: for the configuration, state and logs.
    environment: that jobs start with, as `sbatch` passes it on.
  """

  def __init__(self, folder: Path, environment: Mapping[str, str]):
    root = programs()
    host = socket.gethostname().split(".")[0]
    try:
      socket.gethostbyname(host)  # JAX looks process 0 up by its node's name
    except OSError:
      pytest.skip(f"needs SLURM, whose node is this host, and its name {host!r} cannot be looked up")
    plugins = next(root.glob("usr/lib/*/slurm-wlm"))
    for name in ("state", "spool"):
      (folder / name).mkdir()
    first_job, self._guard = own_jobs()
    config = folder / "slurm.conf"
    config.write_text(
      CONFIG.format(
        host=host,
        user=getpass.getuser(),
        plugins=plugins,
        folder=folder,
        controller_port=free_port(),
        node_port=free_port(),
        first_job=first_job,
      )
    )
    self.folder = folder
    self.environment = {
      **environment,
      "SLURM_CONF": str(config),
      "LD_LIBRARY_PATH": f"{plugins}:{plugins.parent}",
      "PATH": f"{root / 'usr' / 'bin'}:{environment['PATH']}",
    }
    daemon = root / "usr" / "sbin"
    node = [str(daemon / "slurmd-wlm"), "-D", "-d", str(daemon / "slurmstepd-wlm")]
    self._daemons = [self._start([str(daemon / "slurmctld-wlm"), "-D"]), self._start(node)]

  def _start(self, command: list[str]) -> subprocess.Popen:
    log = (self.folder / f"{Path(command[0]).name}.out").open("w")
    return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

  def __enter__(self) -> Slurm:
    end = time.monotonic() + 30
    while time.monotonic() < end:
      found = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env=self.environment, capture_output=True, text=True
      )
      if "idle" in found.stdout:
        return self
      time.sleep(0.5)
    self.__exit__()
    pytest.skip(f"needs SLURM, which does not start here:\n{self.logs()[-500:]}")

  def __exit__(self, *_: object) -> None:
    subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=self.environment, capture_output=True)
    time.sleep(1)
    for daemon in reversed(self._daemons):
      daemon.terminate()
      try:
        daemon.wait(timeout=20)
      except subprocess.TimeoutExpired:
        daemon.kill()
    self._guard.close()

  def call(self, *command: str) -> str:
    """What a command prints.

    Raises:
      CalledProcessError: it failed.
    """
    return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

  def show(self, job: str) -> dict[str, str]:
    """What the controller knows of a job."""
    words = self.call("scontrol", "--oneliner", "show", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)

  def wait(self, job: str, *states: str, seconds: float = 120) -> dict[str, str]:
    """Waits for a job to be in one of the states."""
    end = time.monotonic() + seconds
    while (found := self.show(job))["JobState"] not in states:
      assert time.monotonic() < end, f"{found}\n{self.logs()}"
      time.sleep(0.5)
    return found

  def wait_for_text(self, path: Path, text: str, *, seconds: float = 120) -> None:
    """Waits for a job's log to have a text."""
    end = time.monotonic() + seconds
    while not path.exists() or text not in path.read_text():
      said = path.read_text() if path.exists() else f"no {path}"
      assert time.monotonic() < end, f"{said}\n{self.logs()}"
      time.sleep(0.5)

  def hurry(self, job: str) -> None:
    """Lets a job that was queued again, and is pending, begin in the next second instead of in two minutes.

    Not in this one: its node takes no launch dated, by the second, when its former one was ended or earlier
    ("Job credential revoked"), and the controller then makes the job FAILED with exit code 1. The two
    minutes are there for that.
    """
    self.call("scontrol", "update", f"JobId={job}", "StartTime=now+1second")

  def logs(self) -> str:
    """What the daemons have to say, for the message of an assertion."""
    return "\n".join(f"==> {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

"""The target-independent description of a run.

It is validated once, so that no renderer meets a value that could break out of its quoting.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping

from jaxtl.errors import ConfigError
from jaxtl.launching import directives

GRACE = 30  # seconds; a run saves within 25 s of SIGTERM
LONGEST = 40  # characters of a generated name; every target accepts this length
LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
# Words that are inserted unquoted into manifests, directives and commands.
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
BUCKET = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(/.*)?", re.DOTALL)
WORDS = {
  "image": "registry.example/jaxtl:0.1.0",
  "accelerator": "tpu-v6e-slice, v4-32 or h100",
  "topology": "4x4",
  "project": "my-project",
  "account": "my-account",
  "zone": "us-east5-b",
  "cluster": "my-cluster",
  "namespace": "default",
  "queue": "my-queue",
  "cluster_queue": "my-cluster-queue",
  "service_account": "trainer",
  "claim": "my-claim",
  "runtime": "v2-alpha-tpuv6e",
  "machine_type": "ct6e-standard-4t",
  "machine_image": "my-project/my-image-family",
}


@dataclasses.dataclass(frozen=True)
class Job:
  """One run of `jaxtl run`, and where it shall run.

  A target uses the fields that it supports and refuses the rest.

  Attributes:
    config: path of the config, as seen where the run starts.
    name: name of the job; a DNS label.
    workdir: folder of the run; `gs://BUCKET/PATH` is mounted if the target supports it.
    overrides: KEY=VALUE, as on the command line.
    run_options: further options of `jaxtl run`, as on the command line.
    arms, seeds: the subset to run; for an array sweep, all arms and seeds of the config.
    data_dir: folder of the data, or `gs://BUCKET/PATH`.
    image: container image with `jaxtl` as its entry point.
    nodes: number of machines.
    accelerator: type, in the target's own words.
    chips: accelerators per machine.
    topology: topology of the TPU slice, like 4x4.
    processes_per_node: processes per machine.
    cpus: CPUs per process.
    memory: memory per machine, in GiB.
    time_limit: time after which the job is ended, HH:MM:SS.
    retries: restarts on exit code 42.
    grace: seconds between SIGTERM and SIGKILL.
    port: port of process 0, on which the others find it.
    partition: partition of SLURM, or several separated by commas.
    account: account of SLURM.
    setup: shell text that a batch script runs before the run; each is one or more lines.
    sbatch: further lines for the head of a batch script, NAME or NAME=VALUE.
    spot: use machines that may be taken away.
    project, zone, cluster, namespace, queue, cluster_queue, service_account, claim, runtime, machine_type,
      machine_image: names of existing resources; see `jaxtl launch --help`.

  Raises:
    ConfigError: a value cannot be used.
  """

  config: str
  name: str
  workdir: str
  overrides: tuple[str, ...] = ()
  run_options: tuple[str, ...] = ()
  arms: tuple[str, ...] = ()
  seeds: tuple[int, ...] = ()
  data_dir: str | None = None
  image: str | None = None
  nodes: int = 1
  accelerator: str | None = None
  chips: int = 0
  topology: str | None = None
  processes_per_node: int | None = None
  cpus: int | None = None
  memory: int | None = None
  time_limit: str | None = None
  retries: int = 3
  grace: int = 60
  port: int = 8476
  partition: str | None = None
  account: str | None = None
  setup: tuple[str, ...] = ()
  sbatch: tuple[str, ...] = ()
  spot: bool = False
  project: str | None = None
  zone: str | None = None
  cluster: str | None = None
  namespace: str | None = None
  queue: str | None = None
  cluster_queue: str | None = None
  service_account: str | None = None
  claim: str | None = None
  runtime: str | None = None
  machine_type: str | None = None
  machine_image: str | None = None

  def __post_init__(self) -> None:
    if not LABEL.fullmatch(self.name):
      raise ConfigError(
        f"--name is {self.name!r}; expected a DNS label of small letters, digits and '-', like tiny-sam"
      )
    for field, example in WORDS.items():
      value = getattr(self, field)
      if value is not None and not WORD.fullmatch(value):
        raise ConfigError(f"{option(field)} is {value!r}; expected a word like {example}")
    if self.time_limit is not None and not re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", self.time_limit):
      raise ConfigError(
        f"--time-limit is {self.time_limit!r}; expected HH:MM:SS or D-HH:MM:SS, like 24:00:00"
      )
    if self.grace < GRACE:
      raise ConfigError(f"--grace is {self.grace}; a run needs 25 s to save, so write at least {GRACE}")
    if self.partition is not None and not all(map(WORD.fullmatch, self.partition.split(","))):
      raise ConfigError(
        f"--partition is {self.partition!r}; expected a word like gpu, or several like gpu,debug"
      )
    directives.parse(self.sbatch)
    for text in self.setup:
      _check_setup(text)
    if self.port > 65535:
      raise ConfigError(f"--port is {self.port}; expected 1 to 65535, like 8476")
    for path in (self.workdir, self.data_dir or ""):
      if path.startswith("gs:") and not BUCKET.fullmatch(path):
        raise ConfigError(
          f"{path!r} names no bucket, whose name has small letters, digits, '-', '_' and '.'; write one like "
          "gs://my-bucket/runs"
        )
    for value in (self.config, self.workdir, self.data_dir or "", *self.overrides, *self.arms, *self.setup):
      if "\0" in value or value != value.encode(errors="replace").decode():
        raise ConfigError(f"{value!r} cannot be passed to a command; expected UTF-8 without NUL")
    for arm in self.arms:
      if "," in arm:
        raise ConfigError(
          f"the arm {arm!r} has a comma, which separates names in --arms; give it another name"
        )

  @property
  def processes(self) -> int:
    return self.nodes * (self.processes_per_node or 1)

  def need(self, target: str, **examples: str) -> None:
    """Checks that fields are given.

    Args:
      target: the target that needs them.
      **examples: field -> an example of a valid value.

    Raises:
      ConfigError: names the first missing field.
    """
    for field, example in examples.items():
      if not getattr(self, field):
        raise ConfigError(f"{target} needs {option(field)}, like {option(field)} {example}")

  def short(self, limit: int, why: str) -> None:
    """Checks the length of the name.

    Raises:
      ConfigError: the name is longer than `limit` characters.
    """
    if len(self.name) > limit:
      raise ConfigError(
        f"--name {self.name!r} has {len(self.name)} characters; {why}, so write at most {limit}"
      )


def _check_setup(text: str) -> None:
  """Checks shell text for what would make a batch script read more or less than its lines.

  `submission.check_setup` asks bash about the rest.

  Raises:
    ConfigError: says what to write instead.
  """
  if not text.strip():
    raise ConfigError(
      "--setup is empty; write a line like 'source /shared/venv/bin/activate', or leave it out"
    )
  if "\r" in text:
    raise ConfigError(
      "--setup has Windows line endings, which bash takes for part of a word; save it with \\n"
    )
  if re.search(r"^\s*#SBATCH\b", text, re.MULTILINE):
    raise ConfigError(
      "--setup has an #SBATCH line, which SLURM ignores after the first command; write --sbatch NAME=VALUE"
    )
  if text.rstrip("\n").endswith("\\"):
    raise ConfigError("--setup ends in a backslash, which would join it to the next line; leave it out")


def option(field: str) -> str:
  """Returns the option that sets a field."""
  return "--" + field.replace("_", "-")


def label(text: str) -> str:
  """Makes a DNS label of at most `LONGEST` characters from any text; keeps digits.

  A text without usable characters becomes "run". A label begins with a letter, so a text that does not gets
  the prefix "run-". A longer label ends in a digest of the text, which distinguishes texts with the same
  beginning.
  """
  found = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
  if not found:
    return "run"
  found = found if found[0].isalpha() else f"run-{found}"
  if len(found) <= LONGEST:
    return found
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  return f"{found[: LONGEST - 1 - len(digest)].rstrip('-')}-{digest}"


def bucket(path: str) -> str | None:
  """Returns the bucket of a gs:// path; None for other paths."""
  found = BUCKET.fullmatch(path)
  return found.group(1) if found else None


def refuse_buckets(job: Job, *, who: str, instead: str) -> None:
  """Refuses buckets, for targets that do not mount any.

  Raises:
    ConfigError: a path is in a bucket; says what to write instead.
  """
  for path in (job.workdir, job.data_dir or ""):
    if bucket(path):
      raise ConfigError(f"{who} mounts no bucket, got {path}; write {instead}")


def mounted(path: str, root: str) -> str:
  """Returns the local path of a gs:// path, with buckets mounted at `root`/BUCKET; keeps other paths."""
  return f"{root}/{path.removeprefix('gs://')}" if bucket(path) else path


def refuse_unused(
  target: str,
  given: Iterable[str],
  takes: Iterable[str],
  others: Mapping[str, str],
  instead: Mapping[str, str],
) -> None:
  """Refuses an option that a target would ignore.

  Args:
    target: the target.
    given: the fields that the user set.
    takes: the fields that the target supports.
    others: field -> the targets that support it, for the message.
    instead: field -> the field with the same meaning that the target supports, if any.

  Raises:
    ConfigError: names the first such option.
  """
  for field in given:
    if field not in takes:
      advice = f"write {option(instead[field])}" if field in instead else "leave it out"
      raise ConfigError(f"{target} takes no {option(field)}, which is for {others[field]}; {advice}")

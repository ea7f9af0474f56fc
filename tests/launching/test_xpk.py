"""xpk itself reads our command, and what it makes of it agrees with our own JobSet."""

import os
import shutil
import subprocess

import pytest
import yaml

from tests.launching.conftest import texts

pytestmark = pytest.mark.skipif(shutil.which("xpk") is None, reason="xpk is not here; pip install xpk has it")


def test_xpk_makes_the_same_jobset_of_our_command(plan, tmp_path):
  script = texts(plan("xpk", nodes=4, retries=5, grace=45, overrides=("title=it's $(x) $$",)))["xpk.sh"]
  dry = (
    "xpk workload create --dry-run --skip-validation --output-manifest-file=manifest.yaml --project-number=1 "
  )
  (tmp_path / "xpk.sh").write_text(script.replace("xpk workload create ", dry))
  environment = {**os.environ, "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path / "gcloud")}
  done = subprocess.run(
    ["bash", "xpk.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 0, done.stdout + done.stderr
  theirs = yaml.safe_load((tmp_path / "manifest.yaml").read_text())
  ours = yaml.safe_load(texts(plan("gke", nodes=4, retries=5, grace=45))["jobset.yaml"])
  assert theirs["apiVersion"] == ours["apiVersion"]
  assert theirs["metadata"]["name"] == ours["metadata"]["name"]
  assert theirs["spec"]["failurePolicy"]["maxRestarts"] == ours["spec"]["failurePolicy"]["maxRestarts"] == 5
  their_rule, our_rule = (jobset["spec"]["failurePolicy"]["rules"][0] for jobset in (theirs, ours))
  assert their_rule.items() <= our_rule.items()
  their_job, our_job = (jobset["spec"]["replicatedJobs"][0]["template"]["spec"] for jobset in (theirs, ours))
  for field in ("completions", "parallelism", "backoffLimit"):
    assert their_job[field] == our_job[field]
  their_codes = their_job["podFailurePolicy"]["rules"][0]
  our_codes = our_job["podFailurePolicy"]["rules"][1]
  assert their_codes["action"] == our_codes["action"] == "FailJob"
  assert their_codes["onExitCodes"]["operator"] == our_codes["onExitCodes"]["operator"]
  assert set(our_codes["onExitCodes"]["values"]) <= set(their_codes["onExitCodes"]["values"])
  pod = their_job["template"]["spec"]
  assert pod["terminationGracePeriodSeconds"] == 45
  container = pod["containers"][0]
  assert container["image"] == "registry.example/jaxtl:0.1.0"
  name = f"{theirs['metadata']['name']}-{theirs['spec']['replicatedJobs'][0]['name']}"
  assert f"(: > /dev/tcp/{name}-0-0.first/8476)" in container["command"][2]
  assert f'--coordinator="{name}-0-0.first:8476" --num-processes=4' in container["command"][2]
  done = subprocess.run(["bash", "-n"], input=container["command"][2], text=True, capture_output=True)
  assert done.returncode == 0, done.stderr

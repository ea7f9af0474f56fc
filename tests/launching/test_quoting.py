"""Hostile values stay values: what the shell, YAML and Kubernetes read back is what was given."""

import os
import re
import shlex
import subprocess

import pytest
import yaml

from jaxtl.launching import manifest
from jaxtl.launching.targets import TARGETS
from tests.launching.conftest import texts

HOSTILE = [
  "title=a b",
  "title='; touch owned; '",
  'title="; touch owned; "',
  "title=$(touch owned)",
  "title=`touch owned`",
  "title=a\ntouch owned\n",
  "title=$HOME $$ $$(HOME) ${HOME}",
  "title=a\\",
  "title=: {a: b} # c",
  "title=| & ; < > ( ) * ? [ ] ! ~",
  "title=\u00fc\u2028\U0001f600\t",
  "title=%j \\N{EOF} EOF",
]


def kubernetes_reads(text: str) -> str:
  """What a container gets of an argument: $(NAME) replaced where NAME is known, $$ by $."""
  return re.sub(r"\$\$|\$\((\w+)\)", lambda found: "$" if found.group() == "$$" else "replaced", text)


def script_of(target: str, plan) -> str:
  """The shell text that calls `jaxtl run`, as its machine sees it."""
  files = texts(plan)
  if target == "gke":
    pod = yaml.safe_load(files["jobset.yaml"])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    return kubernetes_reads(pod["spec"]["containers"][0]["command"][2])
  if target == "skypilot":
    return yaml.safe_load(files["task.yaml"])["run"]
  name = {
    "xpk": "xpk.sh",
    "gce": "startup.sh",
    "tpu-vm": "worker.sh",
    "queued-resource": "worker.sh",
    "slurm": "train.sbatch",
    "slurm-array": "array_sweep.sbatch",
    "local": "run_n.sh",
  }[target]
  return files[name]


STUB = """#!/usr/bin/env bash
for word in "$@"; do printf '%s\\0' "$word"; done >> "$FOUND"
"""
PASS_ON = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
# What stands between a script and `jaxtl`: each starts, in its way, what it is given.
PROGRAMS = {
  "jaxtl": STUB,
  "docker": STUB,
  "srun": PASS_ON,
  "curl": "#!/bin/sh\ncase $* in *instance/name) echo first-0 ;; *) echo 0 ;; esac\n",
  "gcloud": "#!/bin/sh\n",
  "gcsfuse": "#!/bin/sh\n",
  "mountpoint": "#!/bin/sh\n",
  "systemd-run": "#!/bin/sh\n",
}


def words_that_run_gets(target, plan, folder) -> list[str]:
  """Runs the rendered script with stubs in place of all programs, and returns what `jaxtl` was given."""
  (folder / "bin").mkdir()
  for name, text in PROGRAMS.items():
    (folder / "bin" / name).write_text(text)
    (folder / "bin" / name).chmod(0o755)
  script = script_of(target, plan)
  if target == "xpk":
    create = script[script.index("xpk workload create") :]
    script = next(word for word in shlex.split(create) if word.startswith("--command=")).removeprefix(
      "--command="
    )
    script = kubernetes_reads(script)
  (folder / "script.sh").write_text(script)
  environment = {
    **os.environ,
    "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    "FOUND": str(folder / "found"),
    "SLURM_ARRAY_TASK_ID": "3",
    "HOME": "replaced",
  }
  done = subprocess.run(
    ["bash", "script.sh", "worker"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
  )
  assert done.returncode == 0, done.stderr
  words = (folder / "found").read_bytes().decode().split("\0")[:-1]
  image = "registry.example/jaxtl:0.1.0"  # what is before it is docker's
  return words[words.index("run", words.index(image) if image in words else 0) :]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_reaches_the_run_as_it_was_given(plan, target, value, tmp_path):
  if target == "xpk" and not value.isprintable():
    pytest.skip("xpk takes one printable line, and test_options has the refusal")
  config = "configs/a b;$(touch owned).py"
  many = {"nodes": 2} if target in ("gce", "tpu-vm", "queued-resource") else {}
  made = plan(target, config=config, overrides=(value,), **many)
  words = words_that_run_gets(target, made, tmp_path)
  assert words[:3] == ["run", config, value]
  assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_arms_of_a_sweep_stay_names(plan, value, tmp_path):
  made = plan("slurm-array", arms=("a", value), seeds=(4, 5), workdir=f"runs/{value}")
  words = words_that_run_gets("slurm-array", made, tmp_path)
  assert words[2:] == [f"--workdir=runs/{value}/tasks/3", f"--arms={value}", "--seeds=5", "--no-report"]
  assert not (tmp_path / "owned").exists()


WORDS = ["name", "image", "accelerator", "project", "zone", "queue", "namespace", "partition", "account"]


@pytest.mark.parametrize("field", WORDS)
@pytest.mark.parametrize("value", ["a b", "a\nb", "$(touch owned)", "-x", "a;b", 'a"b', "", "a,b=c"])
def test_words_of_manifests_and_directives_cannot_be_anything_else(plan, field, value):
  from jaxtl.errors import ConfigError
  from jaxtl.launching import Job

  with pytest.raises(ConfigError, match=f"--{field} is "):
    Job(**({"config": "c.py", "name": "a", "workdir": "w"} | {field: value}))


@pytest.mark.parametrize(
  "text", [*HOSTILE, "", "true", "1", "1.5", "2024-01-01", "~", "null", "- a", "a: b", "4x4"]
)
def test_a_text_stays_that_text_in_yaml(text):
  value = {
    text or "empty": [text, {"b": text, "c": [text]}, text + "\nmore\n"],
    "block": text + "\n  x\n\ny\n",
  }
  assert yaml.safe_load(manifest.dump(value)) == value


def test_yaml_of_other_values():
  value = {"a": [], "b": {}, "c": [{"d": 1, "e": True}, {"f": []}], "g": False, "h": {"i": {"j": -3}}}
  assert yaml.safe_load(manifest.dump(value)) == value

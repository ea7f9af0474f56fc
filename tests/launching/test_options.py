"""Every option changes what is submitted, and one that a target would not heed is refused."""

import dataclasses

import pytest

from jaxtl import launching
from jaxtl.cli.launch_options import OPTIONS
from jaxtl.errors import ConfigError
from jaxtl.launching.targets import EVERYWHERE, TARGETS
from tests.launching.conftest import FOLDER, texts

# field -> a value, what it turns into somewhere in the files, and what else must be said for it to matter
FLIPPED = {
  "config": ("other.py", "other.py", {}),
  "name": ("renamed", "renamed", {}),
  "workdir": ("elsewhere", "elsewhere", {}),
  "overrides": (("base.epochs=7",), "base.epochs=7", {}),
  "run_options": (("--hang-limit=60",), "--hang-limit=60", {}),
  "arms": (("tiny_sam", "tiny_asam"), "tiny_sam", {}),
  "seeds": ((5, 6), "5", {}),
  "data_dir": ("some-data", "--data-dir=some-data", {}),
  "image": ("registry.example/other:2", "registry.example/other:2", {}),
  "nodes": (2, "2", {}),
  "accelerator": ("nvidia-x", "nvidia-x", {"accelerator": "nvidia-y", "chips": 8}),
  "chips": (5, "5", {"accelerator": "nvidia-x", "chips": 8}),
  "topology": ("2x4", "2x4", {"accelerator": "tpu-v6e-slice", "chips": 4, "topology": "4x4"}),
  "processes_per_node": (3, "3", {}),
  "cpus": (11, "11", {}),
  "memory": (77, "77", {}),
  "time_limit": ("12:34:56", "--time=12:34:56", {}),
  "retries": (9, "9", {}),
  "grace": (99, "99", {}),
  "port": (9999, "9999", {"nodes": 2, "processes_per_node": 2}),
  "partition": ("other-partition", "#SBATCH --partition=other-partition\n", {}),
  "account": ("other-account", "#SBATCH --account=other-account\n", {}),
  "setup": (("source here/activate",), "\nsource here/activate\n", {}),
  "sbatch": (("qos=high",), "#SBATCH --qos=high\n", {}),
  "project": ("other-project", "other-project", {}),
  "zone": ("europe-west4-a", "europe-west4-a", {}),
  "cluster": ("other-cluster", "--cluster=other-cluster", {}),
  "namespace": ("research", "research", {}),
  "queue": ("high", "high", {}),
  "cluster_queue": ("all", "clusterQueue: all", {"queue": "high"}),
  "service_account": ("reader", "reader", {}),
  "claim": ("disk", "claimName: disk", {}),
  "runtime": ("v2-alpha-tpuv6e", "v2-alpha-tpuv6e", {}),
  "machine_type": ("ct6e-standard-4t", "--machine-type=ct6e-standard-4t", {}),
  "machine_image": ("p/f", "--image-family=f", {}),
  "spot": (True, "spot", {}),
}
CASES = [(name, field) for name in TARGETS for field in sorted(TARGETS[name].takes | EVERYWHERE)]


def test_every_field_has_a_test_that_flips_it_and_an_option():
  fields = {field.name for field in dataclasses.fields(launching.Job)}
  assert fields == set(FLIPPED)
  own = {
    "config",
    "workdir",
    "overrides",
    "run_options",
    "arms",
    "seeds",
    "data_dir",
    "setup",
    "sbatch",
    "spot",
  }
  assert fields == set(OPTIONS) | own


@pytest.mark.parametrize(("target", "field"), CASES)
def test_every_option_that_a_target_takes_changes_what_it_submits(plan, target, field):
  value, found, also = FLIPPED[field]
  if field == "workdir":
    value = {"xpk": "/", "local": "", "slurm": "", "slurm-array": ""}.get(target, "gs://") + value
  also = {name: other for name, other in also.items() if name in TARGETS[target].takes}
  before = plan(target, **also)
  after = plan(target, **(also | {field: value}))
  assert after != before
  assert found in after.text(FOLDER).replace("SPOT", "spot")
  if len(found) > 2:  # a number may be anywhere
    assert found not in before.text(FOLDER)


@pytest.mark.parametrize("target", TARGETS)
def test_an_option_that_would_not_be_heeded_is_refused(plan, target):
  for field in set(FLIPPED) - TARGETS[target].takes - EVERYWHERE:
    with pytest.raises(ConfigError, match=f"{target} takes no --{field.replace('_', '-')}, which is for "):
      plan(target, **{field: FLIPPED[field][0]})


@pytest.mark.parametrize(
  ("target", "changes", "message"),
  [
    ("gke", {"name": "Bad_Name"}, "--name is 'Bad_Name'; expected a DNS label"),
    ("gke", {"name": "1st"}, "--name is '1st'"),
    ("gke", {"name": "a" * 48}, "has 48 characters; a pod's name ends in"),
    ("xpk", {"name": "a" * 41}, "write at most 40"),
    ("gke", {"grace": 29}, "--grace is 29; a run needs 25 s to save, so write at least 30"),
    ("gke", {"image": None}, "gke needs --image, like --image registry.example"),
    ("gke", {"image": "a b"}, "--image is 'a b'; expected a word like"),
    ("gke", {"workdir": "runs/x"}, "is lost with its pod; write gs://BUCKET/PATH, or --claim NAME"),
    ("gke", {"workdir": "gs://"}, "names no bucket"),
    ("gke", {"accelerator": "tpu-v6e-slice", "chips": 4}, "gke with a TPU needs --topology"),
    ("gke", {"accelerator": "nvidia-l4"}, "gke with a GPU needs --chips"),
    ("slurm-array", {"arms": ("a,b",)}, "the arm 'a,b' has a comma"),
    ("gke", {"cluster_queue": "all"}, "--cluster-queue needs --queue"),
    ("xpk", {"workdir": "gs://bucket/x"}, "attach a volume"),
    ("xpk", {"overrides": ("title=a\nb",)}, "xpk takes no line break"),
    ("xpk", {"cluster": None}, "xpk needs --cluster"),
    ("gce", {"machine_image": "family"}, "expected PROJECT/FAMILY"),
    ("gce", {"workdir": "runs/x"}, "gce needs gs://BUCKET/PATH"),
    ("tpu-vm", {"runtime": None}, "tpu-vm needs --runtime"),
    ("slurm", {"workdir": "gs://bucket/x"}, "SLURM mounts no bucket"),
    ("slurm", {"time_limit": "1 day"}, "expected HH:MM:SS"),
    ("skypilot", {"workdir": "runs/x"}, "skypilot needs gs://BUCKET/PATH"),
    ("local", {"data_dir": "gs://bucket/x"}, "local mounts no bucket"),
    ("local", {"port": 70000}, "expected 1 to 65535"),
    ("local", {"overrides": ("title=\0",)}, "cannot be passed to a command"),
  ],
)
def test_what_cannot_be_is_one_line_that_says_what_to_write(plan, target, changes, message):
  with pytest.raises(ConfigError) as error:
    plan(target, **changes)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_an_unknown_target_is_refused():
  with pytest.raises(ConfigError, match="no target 'moon'; expected one of gke, "):
    launching.render("moon", launching.Job(config="c.py", name="a", workdir="w"), FOLDER)


def test_the_longest_names_of_pods_are_labels(plan):
  name = "a" * 47
  assert len(f"{name}-w-0-99999-abcde") == 63
  assert f"name: {name}\n" in texts(plan("gke", name=name))["jobset.yaml"]


def test_processes_of_slurm_follow_the_accelerators(plan):
  assert "#SBATCH --ntasks-per-node=8\n" in texts(plan("slurm", chips=8))["train.sbatch"]
  assert "--gpu-bind=none" in texts(plan("slurm", chips=8))["train.sbatch"]
  assert "#SBATCH --ntasks-per-node=1\n" in texts(plan("slurm"))["train.sbatch"]


def test_a_step_is_told_the_cpus_of_its_tasks(plan):
  text = texts(plan("slurm", cpus=6))["train.sbatch"]
  assert "#SBATCH --cpus-per-task=6\n" in text
  assert "\nsrun --kill-on-bad-exit=0 --wait=0 --cpus-per-task=6 bash" in text


def test_a_sweep_has_a_task_for_each_arm_and_seed(plan):
  text = texts(plan("slurm-array", arms=("a", "b c", "d"), seeds=(0, 7)))["array_sweep.sbatch"]
  assert "#SBATCH --array=0-5\n" in text
  assert "arms=(a 'b c' d)\nseeds=(0 7)\n" in text


@pytest.mark.parametrize("target", ["gke", "xpk", "gce", "tpu-vm", "queued-resource", "skypilot"])
def test_several_machines_wait_for_the_first(plan, target):
  several, one = (plan(target, nodes=nodes).text(FOLDER) for nodes in (2, 1))
  assert "/dev/tcp/" in several
  assert "--num-processes=2" in several
  assert "/dev/tcp/" not in one
  assert "--num-processes" not in one


def test_usage_statistics_are_off(plan):
  assert "xpk config set send-telemetry false" in texts(plan("xpk"))["xpk.sh"]
  commands = [*plan("skypilot").commands, *plan("skypilot").later]
  assert all(command[:2] == ("env", "SKYPILOT_DISABLE_USAGE_COLLECTION=1") for command in commands)

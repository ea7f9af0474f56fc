"""A job for every target, with all that the target needs."""

from pathlib import PurePosixPath

import pytest

from jaxtl import launching

FOLDER = PurePosixPath("launch")
COMMON = {"config": "configs/quickstart.py", "name": "first"}
IMAGE = {"image": "registry.example/jaxtl:0.1.0"}
BUCKET = {"workdir": "gs://my-bucket/first"}
GOOGLE = {"project": "my-project", "zone": "us-east5-b"}
NEEDED: dict[str, dict] = {
  "gke": IMAGE | BUCKET,
  "xpk": IMAGE | GOOGLE | {"workdir": "/mnt/first", "cluster": "my-cluster", "accelerator": "v6e-16"},
  "gce": IMAGE | BUCKET | GOOGLE | {"machine_type": "n2-standard-8", "machine_image": "my-images/my-family"},
  "tpu-vm": IMAGE | BUCKET | GOOGLE | {"accelerator": "v4-32", "runtime": "tpu-ubuntu2204-base"},
  "queued-resource": IMAGE | BUCKET | GOOGLE | {"accelerator": "v4-32", "runtime": "tpu-ubuntu2204-base"},
  "slurm": {"workdir": "runs/first"},
  "slurm-array": {"workdir": "runs/first", "arms": ("a", "b"), "seeds": (0, 1)},
  "skypilot": IMAGE | BUCKET,
  "local": {"workdir": "runs/first"},
}


@pytest.fixture
def plan():
  """Renders a target with what it needs, and changes to that; None takes a field away."""

  def make(target: str, **changes) -> launching.LaunchPlan:
    fields = COMMON | NEEDED[target] | changes
    given = [field for field in NEEDED[target] | changes if field not in ("workdir", "arms", "seeds")]
    job = launching.Job(**{name: value for name, value in fields.items() if value is not None})
    return launching.render(target, job, FOLDER, given=given)

  return make


def texts(plan: launching.LaunchPlan) -> dict[str, str]:
  return {file.path: file.text for file in plan.files}

"""What each of two processes runs in test_processes.py: one step under every rule and placement.

Usage: python -m tests.train.pair_program PROCESS PORT OUT
"""

import json
import sys
from pathlib import Path

import jax

from jaxtl import train
from jaxtl.config import parse
from jaxtl.host import processes
from jaxtl.host.cluster import Cluster
from jaxtl.train import Experiment, Runtime
from tests.small_training import tiny_config
from tests.train.test_sharding import ONE_STEP, PLACEMENTS, RULES

CASES = {
  **{
    f"{rule}, {name}": (RULES[rule], PLACEMENTS[name])
    for rule in ("plain", "sam", "accumulate")
    for name in ("replicate", "fsdp")
  },
  "sam per device": (dict(make=".train.per_device", inner=RULES["sam"]), PLACEMENTS["replicate"]),
}


def weights_of(case: str, devices: int | None = None) -> train.Weights:
  """The weights after one step, on all devices of all processes unless said otherwise."""
  gradient, placement = CASES[case]
  config = tiny_config(epochs=ONE_STEP, evaluation={}, gradient=gradient, sharding=placement)
  return train.run(parse(config, Experiment), seed=0, runtime=Runtime(train.make_mesh(devices)))


def main(process: int, port: int, out: Path) -> None:
  jax.config.update("jax_num_cpu_devices", 4)
  processes.start(Cluster("the test", f"127.0.0.1:{port}", 2, process))
  found = {}
  for case in CASES:
    trained = weights_of(case).weights
    leaves = jax.tree.leaves({"params": trained.params, "batch_stats": trained.batch_stats})
    found[case] = [leaf.reshape(-1).tolist() for leaf in leaves]
  texts = processes.gather_texts(json.dumps(found))
  assert texts[0] == texts[1], "the processes end with other weights"
  if process == 0:
    out.write_text(texts[0])


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

"""Whether a process is one of several, from what its environment says."""

import pytest

from jaxtl.errors import ConfigError
from jaxtl.host import cluster

SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NUM_TASKS": "4",
  "SLURM_STEP_NODELIST": "n[1-2]",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
  ("environment", "alone", "why"),
  [
    ({}, True, "no launcher of several processes was found"),
    (SLURM, False, "SLURM job 7, task 2 of 4; JAX asks SLURM for the rest"),
    (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, True, "SLURM job 7 with one task"),
    # A shell that salloc opened: the job's variables without a step's (jax-ml/jax#30073).
    (
      {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},
      True,
      "SLURM job 7 without SLURM_STEP_NUM_TASKS: not a task",
    ),
    ({k: v for k, v in SLURM.items() if k != "SLURM_LOCALID"}, True, "without SLURM_LOCALID"),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, False, "TPU_WORKER_HOSTNAMES names 2 hosts"),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, True, "no launcher of several"),
    ({"TPU_WORKER_HOSTNAMES": ""}, True, "no launcher of several"),
    ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, False, "several TPU slices"),
    ({"JOB_COMPLETION_INDEX": "3"}, True, "a Kubernetes job of index 3, but no --coordinator"),
    # jax-ml/jax#24964: a pod that has nothing to do with the run.
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True, "no launcher of several"),
  ],
)
def test_what_an_environment_means(environment, alone, why):
  found = cluster.detect(environment)
  assert found.alone is alone
  assert why in found.why


@pytest.mark.parametrize(("size", "rank"), cluster.LAUNCHERS.values())
def test_a_launcher_whose_processes_would_each_train_alone_is_refused(size, rank):
  started = {size: "4", rank: "2"}
  with pytest.raises(
    ConfigError, match=rf"^{size} is 4: .*--num-processes 4 --process-id \${rank} "
  ) as caught:
    cluster.detect(started)
  assert len(str(caught.value).splitlines()) == 1
  assert cluster.detect(started, num_processes=1).alone
  assert cluster.detect(started, coordinator="h:1", num_processes=4, process_id=2).number == 2
  for one in ({size: "1", rank: "0"}, {size: "4"}, {rank: "2"}, {size: "x", rank: "2"}, {size: "", rank: ""}):
    assert cluster.detect(one).alone
  # Inside a SLURM job without srun, and with srun for the launcher's daemons.
  for job in (
    {"SLURM_JOB_ID": "7"},
    SLURM | {"SLURM_STEP_NUM_TASKS": "2"},
    SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
  ):
    with pytest.raises(ConfigError, match=size):
      cluster.detect(job | started)
  assert cluster.detect(SLURM | started).number == 2  # srun itself sets them
  assert not cluster.detect({"TPU_WORKER_HOSTNAMES": "a,b"} | started).alone


def test_options_win():
  found = cluster.detect(SLURM, coordinator="h:1234", num_processes=3, process_id=0)
  assert (found.coordinator, found.num_processes, found.process_id) == ("h:1234", 3, 0)
  assert not found.alone
  assert cluster.detect(SLURM, coordinator="h:1", num_processes=1, process_id=0).alone


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (dict(coordinator="h:1"), "--coordinator without --num-processes, --process-id"),
    (dict(num_processes=2, process_id=0), "--num-processes, --process-id without --coordinator"),
    (dict(coordinator="h", num_processes=2, process_id=0), "'h'; expected process 0's HOST:PORT"),
    (dict(coordinator=":80", num_processes=2, process_id=0), "expected process 0's HOST:PORT"),
    (dict(coordinator="h:99999", num_processes=2, process_id=0), "expected process 0's HOST:PORT"),
    (dict(coordinator="fd00::2:8476", num_processes=2, process_id=0), r"like .* or \[fd00::2\]:80"),
    (dict(coordinator="[fd00::2", num_processes=2, process_id=0), "expected process 0's HOST:PORT"),
    (dict(coordinator="[h]:80", num_processes=2, process_id=0), "expected process 0's HOST:PORT"),
    (
      dict(coordinator="h:80", num_processes=2, process_id=2),
      "--process-id is 2 of .*expected 0 to 1",
    ),
  ],
)
def test_options_that_do_not_fit_are_refused(options, said):
  with pytest.raises(ConfigError, match=said):
    cluster.detect({}, **options)


@pytest.mark.parametrize(
  "address", ["[::1]:8476", "[fd00::2]:80", "[fe80::1%eth0]:80", "10.0.0.2:80", "h-0.a:80"]
)
def test_a_coordinator_is_a_name_or_an_address_with_a_port(address):
  assert cluster.detect({}, coordinator=address, num_processes=2, process_id=1).coordinator == address


def test_the_number_of_a_process_names_its_files():
  assert cluster.detect(SLURM).number == 2
  assert cluster.detect({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}).number == 1
  assert cluster.detect({"TPU_WORKER_HOSTNAMES": "a,b"}).number == 0
  assert cluster.detect({}, coordinator="h:1", num_processes=3, process_id=2).number == 2

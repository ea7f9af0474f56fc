"""A real SLURM reads the lines that a user adds as they were given."""

import pytest

from tests.launching.test_slurm import rendered, slurm, submit

__all__ = ["slurm"]  # a fixture
pytestmark = pytest.mark.slow


def test_slurm_reads_added_lines_and_hands_the_setup_on(slurm, tmp_path):
  stub = '#!/bin/sh\n[ "$FOUND" = "of setup" ] || exit 3\n'
  (tmp_path / "bin" / "jaxtl").write_text(stub)
  lines = ["comment=two words", "nice=7", "mail-user=a@b.example", "output=logs-%x-%j.txt"]
  words = [word for line in lines for word in ("--sbatch", line)]
  assert rendered(
    "slurm", "--partition", "main", "--cpus", "2", *words, "--setup", "export FOUND='of setup'"
  ) == ["train.sbatch"]
  job = submit(slurm, "train.sbatch")
  found = slurm.wait(job, "COMPLETED", "FAILED")
  assert (found["JobState"], found["ExitCode"]) == ("COMPLETED", "0:0"), slurm.logs()
  assert (found["Nice"], found["Partition"], found["CPUs/Task"]) == ("7", "main", "2")
  assert "Comment=two words " in slurm.call("scontrol", "--oneliner", "show", "job", job)
  assert (tmp_path / f"logs-tiny-{job}.txt").is_file()

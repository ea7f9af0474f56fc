"""Shell text: how a run's command is quoted, and the loop that starts it again on exit code 42."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

from jaxtl.launching.job import Job, bucket, mounted

HEADER = "#!/usr/bin/env bash\n"
BUCKETS = "/mnt/gcs"  # each bucket has its folder there
USER = 1000  # of the containers in launch/docker


def quote(words: Sequence[str]) -> list[str]:
  """Each word as the shell reads it back."""
  return [shlex.quote(word) for word in words]


def run_words(job: Job, *, root: str = BUCKETS, limit: bool = True) -> list[str]:
  """The words of `jaxtl run`, without those about processes.

  Args:
    job: the job.
    root: where buckets are mounted.
    limit: whether --workdir, --arms and --seeds are among them; an array sweep has its own for each task.
  """
  words = ["run", job.config, *job.overrides]
  if limit:
    words += [f"--workdir={mounted(job.workdir, root)}"]
    words += [f"--arms={','.join(job.arms)}"] if job.arms else []
    words += [f"--seeds={','.join(map(str, job.seeds))}"] if job.seeds else []
  words += [f"--data-dir={mounted(job.data_dir, root)}"] if job.data_dir else []
  return [*words, *job.run_options]


def lines(words: Sequence[str], indent: str = "") -> str:
  """Words that are quoted already, as one command over several lines."""
  return f" \\\n{indent}  ".join(words)


def command(job: Job, *extra: str, program: Sequence[str] = ("jaxtl",), indent: str = "") -> str:
  """`jaxtl run` as shell text.

  Args:
    job: the job.
    *extra: further words, quoted already, so that they may have variables.
    program: what stands for `jaxtl`, quoted already.
    indent: of the first line.
  """
  first, config, *rest = quote(run_words(job))
  return lines([f"{' '.join(program)} {first} {config}", *rest, *extra], indent)


def buckets(job: Job) -> list[str]:
  """The buckets that must be mounted, each once."""
  found = [bucket(path) for path in (job.workdir, job.data_dir or "")]
  return list(dict.fromkeys(name for name in found if name))


def processes(coordinator: str, count: str, index: str) -> list[str]:
  """The options that let several processes find each other, with variables of the shell."""
  return [f'--coordinator="{coordinator}"', f"--num-processes={count}", f'--process-id="{index}"']


def wait_for(host: str, port: str, index: str) -> str:
  """Waits for process 0: machines come up minutes apart, and `jaxtl run` alone waits for 25 s."""
  return f"""\
# Process 0 may be minutes away; a run that does not find it within 25 s would use up a restart.
if [ "{index}" != 0 ]; then
  SECONDS=0
  until (: > "/dev/tcp/{host}/{port}") 2> /dev/null; do
    if [ "$SECONDS" -gt 1800 ]; then break; fi
    sleep 2
  done
fi
"""


def wait_in_line(host: str, port: str, index: str) -> str:
  """The same in one line, which another command can follow."""
  tried = f"(: > /dev/tcp/{host}/{port}) 2> /dev/null && break; sleep 2"
  return f'if [ "{index}" != 0 ]; then for ((i = 0; i < 900; i++)); do {tried}; done; fi; '


def run_function(command: str, wait: str = "") -> str:
  """A function `run` for `restart_loop`.

  Args:
    command: that it ends in; its further lines are indented already.
    wait: what it does before.
  """
  return f"run() {{\n{textwrap.indent(wait, '  ')}  {command}\n}}\n"


def restart_loop(retries: int) -> str:
  """Calls the function `run` in a process of its own, again after exit code 42, and ends with its exit code.

  Args:
    retries: how often it is called again.
  """
  return f"""\
# Exit code 42 asks for another start; nothing else does. SIGTERM is passed on, and the save waited for.
child=
stopping=
stop() {{
  stopping=1
  [ -z "$child" ] || kill -TERM "$child" 2> /dev/null
}}
trap stop TERM INT
retries={retries}
for ((restart = 0; ; restart++)); do
  run &
  child=$!
  wait "$child"
  rc=$?
  while kill -0 "$child" 2> /dev/null; do # a signal ends `wait`, not the run
    wait "$child"
    rc=$?
  done
  if [ "$rc" -ne 42 ] || [ -n "$stopping" ] || [ "$restart" -ge "$retries" ]; then break; fi
  echo "jaxtl asks to be started again: restart $((restart + 1)) of $retries" >&2
done
exit "$rc"
"""

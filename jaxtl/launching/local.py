"""Several processes on this machine, which find each other on loopback."""

from __future__ import annotations

from pathlib import PurePath

from jaxtl.launching import shell
from jaxtl.launching.job import Job, refuse_buckets
from jaxtl.launching.plan import File, LaunchPlan

_SCRIPT = """\
# {name}: processes on loopback. Lines say which they are from; the worst exit code is this one's.
processes={processes}
retries={retries}
prefixed() {{ while IFS= read -r line || [ -n "$line" ]; do printf '[%s] %s\\n' "$1" "$line"; done; }}
start() {{
  exec {command}
}}

children=()
stopping=
stop() {{
  stopping=1
  [ "${{#children[@]}}" -eq 0 ] || kill -TERM "${{children[@]}}" 2> /dev/null
}}
trap stop TERM INT

# A code other than 0 and 42 is final, and wins over the 42 of the peers that it brings down.
worst_of() {{
  if [ "$1" -eq 0 ] || {{ [ "$1" -eq 42 ] && [ "$2" -ne 0 ]; }}; then echo "$2"; else echo "$1"; fi
}}

run() {{
  children=()
  local readers=() out code index
  rc=0
  for ((index = 0; index < processes; index++)); do
    exec {{out}}> >(trap '' TERM INT; prefixed "$index")
    readers+=("$!")
    start "$index" >&"$out" 2>&1 {{out}}>&- &
    children+=("$!")
    exec {{out}}>&-
  done
  [ -z "$stopping" ] || stop # it came before the last of them was known
  for index in "${{!children[@]}}"; do
    wait "${{children[index]}}"
    code=$?
    while kill -0 "${{children[index]}}" 2> /dev/null; do # a signal ends `wait`, not the run
      wait "${{children[index]}}"
      code=$?
    done
    rc=$(worst_of "$rc" "$code")
  done
  for index in "${{readers[@]}}"; do wait "$index"; done
}}

for ((restart = 0; ; restart++)); do
  run
  if [ "$rc" -ne 42 ] || [ -n "$stopping" ] || [ "$restart" -ge "$retries" ]; then break; fi
  echo "jaxtl asks to be started again: restart $((restart + 1)) of $retries" >&2
done
exit "$rc"
"""


def run_n(job: Job, folder: PurePath) -> LaunchPlan:
  """Plans a script that starts the processes, and restarts them on exit code 42."""
  refuse_buckets(job, who="local", instead="a folder of this machine")
  extra = []
  if job.processes > 1:
    extra = shell.processes(f"127.0.0.1:{job.port}", str(job.processes), "$1")
  command = shell.command(job, *extra, indent="  ")
  script = shell.HEADER + _SCRIPT.format(
    name=job.name, processes=job.processes, retries=job.retries, command=command
  )
  return LaunchPlan(
    files=(File("run_n.sh", script),),
    commands=(("bash", str(folder / "run_n.sh")),),
    programs=("bash", "jaxtl"),
  )

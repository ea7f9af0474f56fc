#!/usr/bin/env bash
# quickstart: processes on loopback. Lines say which they are from; the worst exit code is this one's.
processes=2
retries=3
prefixed() { while IFS= read -r line || [ -n "$line" ]; do printf '[%s] %s\n' "$1" "$line"; done; }
start() {
  exec jaxtl run configs/quickstart.py \
    --workdir=runs/quickstart \
    --coordinator="127.0.0.1:8476" \
    --num-processes=2 \
    --process-id="$1"
}

children=()
stopping=
stop() {
  stopping=1
  [ "${#children[@]}" -eq 0 ] || kill -TERM "${children[@]}" 2> /dev/null
}
trap stop TERM INT

# A code other than 0 and 42 is final, and wins over the 42 of the peers that it brings down.
worst_of() {
  if [ "$1" -eq 0 ] || { [ "$1" -eq 42 ] && [ "$2" -ne 0 ]; }; then echo "$2"; else echo "$1"; fi
}

run() {
  children=()
  local readers=() out code index
  rc=0
  for ((index = 0; index < processes; index++)); do
    exec {out}> >(trap '' TERM INT; prefixed "$index")
    readers+=("$!")
    start "$index" >&"$out" 2>&1 {out}>&- &
    children+=("$!")
    exec {out}>&-
  done
  [ -z "$stopping" ] || stop # it came before the last of them was known
  for index in "${!children[@]}"; do
    wait "${children[index]}"
    code=$?
    while kill -0 "${children[index]}" 2> /dev/null; do # a signal ends `wait`, not the run
      wait "${children[index]}"
      code=$?
    done
    rc=$(worst_of "$rc" "$code")
  done
  for index in "${readers[@]}"; do wait "$index"; done
}

for ((restart = 0; ; restart++)); do
  run
  if [ "$rc" -ne 42 ] || [ -n "$stopping" ] || [ "$restart" -ge "$retries" ]; then break; fi
  echo "jaxtl asks to be started again: restart $((restart + 1)) of $retries" >&2
done
exit "$rc"

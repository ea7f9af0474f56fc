#!/usr/bin/env bash
metadata() {
  curl --fail --silent --header "Metadata-Flavor: Google" \
    "http://metadata.google.internal/computeMetadata/v1/instance/$1"
}
# The hosts of a slice, in the order of their numbers, as `name:id:address` or as names alone.
index=$(metadata attributes/agent-worker-number) || exit 1
hosts=$(metadata attributes/worker-network-endpoints) || exit 1
host="${hosts%%,*}"
host="${host##*:}"
mountpoint --quiet /mnt/gcs/my-bucket || {
  mkdir -p /mnt/gcs/my-bucket
  gcsfuse --implicit-dirs --uid=1000 --gid=1000 -o allow_other my-bucket /mnt/gcs/my-bucket || exit 1
}
gcloud auth configure-docker registry.example --quiet || true # other registries need no such thing
docker rm --force jaxtl-tiny-imagenet 2> /dev/null
run() {
  # Process 0 may be minutes away; a run that does not find it within 25 s would use up a restart.
  if [ "$index" != 0 ]; then
    SECONDS=0
    until (: > "/dev/tcp/$host/8476") 2> /dev/null; do
      if [ "$SECONDS" -gt 1800 ]; then break; fi
      sleep 2
    done
  fi
  exec docker run --rm --name=jaxtl-tiny-imagenet --network=host --privileged --ipc=host \
    --stop-timeout=60 --volume=/mnt/gcs:/mnt/gcs \
    registry.example/jaxtl:0.1.0 run configs/pretrain/tiny_imagenet.py \
    --workdir=/mnt/gcs/my-bucket/runs/tiny_imagenet \
    --data-dir=/mnt/gcs/my-bucket/data \
    --coordinator="$host:8476" \
    --num-processes=4 \
    --process-id="$index"
}
# Exit code 42 asks for another start; nothing else does. SIGTERM is passed on, and the save waited for.
child=
stopping=
stop() {
  stopping=1
  [ -z "$child" ] || kill -TERM "$child" 2> /dev/null
}
trap stop TERM INT
retries=3
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

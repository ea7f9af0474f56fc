#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
gcloud compute tpus queued-resources create tiny-imagenet \
  --node-id=tiny-imagenet \
  --accelerator-type=v4-32 \
  --runtime-version=tpu-ubuntu2204-base \
  --zone=us-central2-b \
  --project=my-project \
  --spot
state() {
  gcloud compute tpus queued-resources describe tiny-imagenet \
    '--format=value(state.state)' \
    --zone=us-central2-b \
    --project=my-project
}
while true; do
  found=$(state)
  echo "$found"
  case "$found" in
    ACTIVE) exit 0 ;;
    FAILED | SUSPENDED) exit 1 ;;
  esac
  sleep 30
done

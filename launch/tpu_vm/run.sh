#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
gcloud compute tpus tpu-vm scp worker.sh \
  tiny-imagenet:jaxtl-tiny-imagenet.sh \
  --worker=all \
  --zone=us-central2-b \
  --project=my-project
gcloud compute tpus tpu-vm ssh tiny-imagenet \
  --worker=all \
  '--command=sudo systemd-run --collect --unit=jaxtl-tiny-imagenet --property=KillMode=mixed --property=TimeoutStopSec=60 bash "$HOME/jaxtl-tiny-imagenet.sh"' \
  --zone=us-central2-b \
  --project=my-project

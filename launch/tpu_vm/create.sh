#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
gcloud compute tpus tpu-vm create tiny-imagenet \
  --accelerator-type=v4-32 \
  --version=tpu-ubuntu2204-base \
  --zone=us-central2-b \
  --project=my-project

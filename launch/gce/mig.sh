#!/usr/bin/env bash
set -eu
cd "$(dirname "$0")"
gcloud compute instance-templates create tiny-imagenet \
  --machine-type=ct6e-standard-4t \
  --image-project=my-images \
  --image-family=tpu-docker \
  --provisioning-model=SPOT \
  --maintenance-policy=TERMINATE \
  --scopes=cloud-platform \
  --metadata-from-file=startup-script=startup.sh \
  --project=my-project
gcloud compute resource-policies create workload-policy tiny-imagenet \
  --type=high-throughput \
  --accelerator-topology=4x4 \
  --region=us-east5 \
  --project=my-project
gcloud compute instance-groups managed create tiny-imagenet \
  --template=tiny-imagenet \
  --size=4 \
  --workload-policy=projects/my-project/regions/us-east5/resourcePolicies/tiny-imagenet \
  --zone=us-east5-b \
  --project=my-project

#!/bin/bash
# NOT EXECUTED HERE: there is no second host and no Slurm. What was executed in its place,
# in tests/test_processes.py: two torchrun agents of two processes each, which meet by
# rendezvous on loopback and end in the weights that one process ends in.
#
#     sbatch recipes/slurm.sh
#
# Without Slurm, the same line on each of two hosts (HOST is the first one's name, the
# port is open between them, and both see the same folder):
#
#     torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_id dpo \
#         --rdzv_endpoint HOST:29400 recipes/train.py --config recipes/dpo_distilgpt2.yaml \
#         --per_device_train_batch_size 2 --expect_ranks 8
#
#SBATCH --job-name=dpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00

set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One agent a node; each starts a process a GPU. 2 x 4 ranks of 2 pairs are the recipe's 16.
srun torchrun \
  --nnodes "$SLURM_NNODES" --nproc_per_node 4 \
  --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$first:29400" \
  recipes/train.py --config recipes/dpo_distilgpt2.yaml \
  --per_device_train_batch_size 2 --expect_ranks 8

#!/usr/bin/env bash
#SBATCH --job-name=eqx-clip
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Trains CLIP under Slurm, over as many jobs as it takes: of its time limit, of a preemption and of
# `scancel --signal=TERM` each process is told by SIGTERM, saves, and ends with exit code 75; then
# the job is put into the queue again, and goes on from there. Any other end is the run's.
#
#     sbatch examples/slurm.sh --train-path data/train.csv --global-batch-size 1024 ...
#
# Above: one process for each GPU, which sees all of its node's; five minutes to save. Variables:
#
#     PYTHON      python, the one that eqx_clip[train] is installed for
#     FOLDER      checkpoints/<number of the job>: a folder that all nodes share
set -euo pipefail

folder=${FOLDER:-checkpoints/$SLURM_JOB_ID} # a requeued job keeps its number
resume=()
for path in "$folder"/*; do
    if [[ ${path##*/} =~ ^[0-9]+$ ]]; then # a whole checkpoint
        resume=(--resume-from-checkpoint "$folder")
    fi
done

status=0
srun "${PYTHON:-python}" -u examples/train.py "$@" --checkpoint-dir "$folder" \
    ${resume[@]+"${resume[@]}"} || status=$?
if [[ $status == 75 ]]; then
    echo "slurm.sh: the run was stopped, and goes on: scontrol requeue $SLURM_JOB_ID" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

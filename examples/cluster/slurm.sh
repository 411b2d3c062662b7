#!/usr/bin/env bash
#SBATCH --job-name=leakboard
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --signal=B:INT@300
# sbatch slurm.sh my_grid.yaml runs/mine
#
# A cluster of Ray on the machines of one job: the first is its head, the others join it, and the grid is run by it. A job that ends
# before the grid is done leaves what is finished; submit it again, with the same folder, and it goes on.
set -euo pipefail
grid=$1 out=$2
export LEAKBOARD_DATA="${LEAKBOARD_DATA:?the folder of the data sets, that all machines see}"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}'):6379

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_ON_NODE" --block &
sleep 15
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
    ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_ON_NODE" --block &
  sleep 15
fi

# As a child that is waited for, since a shell hands on a signal only then; leakboard stops at it and keeps what is finished.
leakboard run "$grid" --executor ray --ray-address "$address" --out "$out" &
run=$!
trap 'kill -INT "$run"' INT
status=0
wait "$run" || status=$?
while kill -0 "$run" 2> /dev/null; do wait "$run" || status=$?; done
exit "$status"

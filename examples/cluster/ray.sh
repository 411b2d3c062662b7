#!/usr/bin/env bash
# ray.sh my_grid.yaml runs/mine HOST...
#
# A cluster of Ray on machines that are reached by ssh, this one as its head. All of them need the same versions of leakboard
# (pip install "leakboard[ray]") and torch; data sets are sent by Ray, and this machine alone writes results.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 GRID OUT [HOST...]" >&2
  exit 2
fi
grid=$1 out=$2
shift 2
ray start --head --port=6379
address=$(hostname --ip-address | awk '{print $1}'):6379
stop() {
  for host in "$@"; do ssh "$host" ray stop || true; done
  ray stop
}
trap 'stop "$@"' EXIT
for host in "$@"; do ssh "$host" ray start --address="$address"; done
leakboard run "$grid" --executor ray --ray-address auto --out "$out"

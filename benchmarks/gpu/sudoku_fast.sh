#!/usr/bin/env bash
# The fast recipe on Sudoku-Extreme, then its validation score. Stopped by Ctrl-C or MINUTES, it goes on when started again.
#   bash benchmarks/gpu/sudoku_fast.sh train.csv.gz test.csv.gz [overrides of train.py ...]
set -euo pipefail
if [ $# -lt 2 ] || [ ! -f "$1" ] || [ ! -f "$2" ]; then
    echo "usage: sudoku_fast.sh TRAIN.csv.gz TEST.csv.gz [overrides]; both files must exist" >&2
    exit 2
fi
train=$1 test=$2
shift 2
run=${RUN:-runs/sudoku_fast/benchmark}
time TITANS_TRM_RUN_DIR=$run python train.py experiment=sudoku_fast hardware=gpu trainer.compile=true resume=auto \
    "data.train_file=$train" "data.test_file=$test" ${MINUTES:+trainer.max_time=$MINUTES} "$@"
python evaluate.py "run=$run"
echo "learning curve: $run/curves.png, $run/metrics.csv"

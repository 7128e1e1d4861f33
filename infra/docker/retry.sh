#!/bin/bash
# When: a run on a cluster should be tried again where its exit code says that this may help (docs/cluster.md).
#   In the images it stands before the command: rasterloom-retry python -m rasterloom run recipe.yaml
# Three tries, a minute apart; done (0), wrong use (2), stopped (3), useless (4) and SIGTERM end it at once.
set -euo pipefail

child='' stopped=''
trap 'stopped=1; kill -TERM "$child" 2> /dev/null || true' TERM

attend() {  # run a command, to which SIGTERM is passed on, and return its exit code
    local code=0
    "$@" &
    child=$!
    wait "$child" || code=$?
    if [ -n "$stopped" ]; then  # the signal ended the first wait
        code=0
        wait "$child" || code=$?
    fi
    return "$code"
}

for try in 1 2 3; do
    code=0
    attend "$@" || code=$?
    case $code in 0 | 2 | 3 | 4) exit "$code" ;; esac
    if [ -n "$stopped" ] || [ "$try" = 3 ]; then exit "$code"; fi
    echo "rasterloom-retry: try $try of 3 ended with exit code $code; the next one in a minute" >&2
    attend sleep 60 || true
    if [ -n "$stopped" ]; then exit "$code"; fi
done

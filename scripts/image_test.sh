#!/usr/bin/env bash
# Builds the CPU image and tries it: as its own user, on a read-only root, without capabilities and without network.
#
# Where no Docker daemon answers, root starts one for the test alone (Debian: apt-get install docker.io debootstrap), and
# where no registry has the base image, it is made of Debian's packages. IMAGE names an image that is there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=${BIN:-.venv/bin}
work=$(mktemp -d)
daemon=

# Debian's client has BuildKit built in; others need the plugin.
export DOCKER=${DOCKER:-docker}
"$DOCKER" buildx version >/dev/null 2>&1 || [[ ! -x /usr/bin/docker ]] || DOCKER=/usr/bin/docker

clean_up() {
  for name in source worker mlflow; do "$DOCKER" rm --force "fusery-image-test-$$-$name" >/dev/null 2>&1 || true; done
  if [[ -n $daemon ]]; then kill "$daemon" && wait "$daemon" || true; fi
  rm -rf "$work"
}
trap clean_up EXIT

start_daemon() {
  command -v dockerd >/dev/null || { echo "image_test: no Docker daemon answers and dockerd is not installed" >&2; exit 2; }
  local root=$PWD/.cache/docker
  mkdir -p "$root" "$work/docker"
  # Without bridge and firewall rules, so that it changes nothing on the machine.
  dockerd --bridge none --iptables=false --ip6tables=false --data-root "$root" --exec-root "$work/docker" \
    --pidfile "$work/docker.pid" --host "unix://$work/docker.sock" >"$work/dockerd.log" 2>&1 &
  daemon=$!
  export DOCKER_HOST=unix://$work/docker.sock
  for _ in $(seq 60); do "$DOCKER" info >/dev/null 2>&1 && return; sleep 1; done
  tail -n 5 "$work/dockerd.log" >&2
  exit 1
}

"$DOCKER" info >/dev/null 2>&1 || start_daemon
if [[ -z ${IMAGE:-} ]]; then
  if [[ -z ${BASE_IMAGE:-} ]] && ! "$DOCKER" pull --quiet debian:bookworm-slim >/dev/null 2>&1; then
    export BASE_IMAGE=fusery-base:bookworm
    "$DOCKER" image inspect "$BASE_IMAGE" >/dev/null 2>&1 || scripts/image_base.sh "$BASE_IMAGE"
  fi
  IMAGE=fusery:test
  IMAGE=$IMAGE scripts/image.sh cpu
fi

restricted=(--read-only --tmpfs /tmp:mode=1777 --network none --cap-drop ALL --security-opt no-new-privileges)
passed=0
step() { # SENTENCE COMMAND…
  local said
  if ! said=$("${@:2}" 2>&1); then
    printf 'image_test: FAILED: %s\n%s\n' "$1" "$said" >&2
    exit 1
  fi
  printf 'image_test: %s\n' "$1"
  passed=$((passed + 1))
}
in_image() { "$DOCKER" run --rm "${restricted[@]}" --volume "$work/run:/work" "$IMAGE" "$@"; }
shell() { "$DOCKER" run --rm "${restricted[@]}" --entrypoint sh "$IMAGE" -c "$1"; }
start() { # NAME OPTIONS… -- ARGUMENTS…
  local name=fusery-image-test-$$-$1 options=()
  shift
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  "$DOCKER" run --detach --name "$name" "${restricted[@]}" "${options[@]}" "$IMAGE" "$@"
}
until_it_holds() { # NAME COMMAND…
  local name=fusery-image-test-$$-$1
  for _ in $(seq 120); do
    "$DOCKER" exec "$name" "${@:2}" && return
    [[ $("$DOCKER" inspect --format '{{.State.Running}}' "$name") == true ]] || break
    sleep 2
  done
  "$DOCKER" logs "$name"
  return 1
}

"$bin/python" - "$work/run" <<'PYTHON'
import sys
from pathlib import Path

sys.path.insert(0, "tests")
from support.runs.pico_run import write_run

folder = Path(sys.argv[1])
folder.mkdir()
# Six documents a domain prove no gain, and a gate that fails is exit 4.
write_run(folder, registry={"enabled": True}, gate={"better_than": [], "domain_tolerance": 9})
PYTHON
chown -R 10001:10001 "$work/run" 2>/dev/null || chmod -R a+rwX "$work/run"
chmod a+rx "$work"

step "it says its version" in_image --version
step "it runs as user 10001" shell '[ "$(id -u):$(id -g)" = 10001:10001 ]'
step "its root can't be written" shell '! touch /opt/fusery/x'
step "it holds no compiler and no installer" \
  shell 'for tool in gcc cc g++ make pip pip3 apt apt-get dpkg curl wget; do ! command -v $tool || exit 1; done;
         ! python -c "import pip" 2>/dev/null'
step "it can launch jobs, read buckets, trace and run task suites" \
  shell 'python -c "import kubernetes.client, s3fs, opentelemetry.sdk, datasets, peft, lm_eval.evaluator"'
step "it holds no cached download" shell '[ ! -e /root/.cache ] && [ -z "$(ls /var/lib/apt 2>/dev/null)" ]'

step "a source server starts" start source --volume "$work/run:/work:ro" -- serve-source /work/models/code --health-port 50052
step "it answers a query" until_it_holds source fusery query 127.0.0.1:50051 'def fuse(sources):' --top-k 3

step "a worker starts beside a broker" start worker --entrypoint sh --env FUSERY_BROKER_URL=redis://127.0.0.1:6379/0 \
  --env FUSERY_STORE=/tmp/store --env FUSERY_WORKER_HEARTBEAT_FILE=/tmp/heartbeat -- \
  -c 'valkey-server --save "" >/dev/null & exec fusery worker --processes 1'
step "it says that it lives, as the chart's probe asks" \
  until_it_holds worker sh -c 'test -n "$(find /tmp/heartbeat -newermt "-60 seconds")"'

step "MLflow starts" start mlflow --entrypoint sh --env MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false -- -c 'exec mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
  --backend-store-uri sqlite:////tmp/mlflow.db --artifacts-destination /tmp/artifacts --serve-artifacts'
step "it is healthy" until_it_holds mlflow python -c \
  'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:5000/health", timeout=5).read())'

step "a whole run ends" in_image run /work/run.yaml
step "it has registered a model" sh -c "ls '$work'/run/store/mlflow/mlflow.db"

"$DOCKER" history --no-trunc=false --format '{{.Size}}\t{{.CreatedBy}}' "$IMAGE" | grep -v '^0B' | cut -c1-90
printf 'image_test: %s passed, %s\n' "$passed" "$("$DOCKER" image inspect --format '{{.Size}}' "$IMAGE" | numfmt --to=si)B"

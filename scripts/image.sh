#!/usr/bin/env bash
# Builds the image: image.sh [cpu|gpu]; it is called fusery:VERSION or fusery:VERSION-gpu, or IMAGE.
#
# DOCKER: the client (docker). BASE_IMAGE: see the Dockerfile. What this machine's pip knows goes along, for builders
# behind an index of their own: the folder of wheels and the configuration that it names, and the authorities.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${1:-cpu}
docker=${DOCKER:-docker}
version=$(sed -nE 's/^version = "(.*)"$/\1/p' pyproject.toml)
suffix=$([[ $target == cpu ]] || echo "-$target")
image=${IMAGE:-fusery:$version$suffix}
[[ $target == cpu || $target == gpu ]] || { echo "image: no target $target; expected cpu or gpu" >&2; exit 2; }

# Files of the lock that pip would take from a folder of this machine.
links=$(python3 -m pip config list 2>/dev/null | sed -nE "s/^[^=]*find-links='(.*)'$/\1/p" | head -n 1)
if [[ -n $links && -d $links ]]; then
  for wheel in "$links"/*.whl; do
    # A file that the lock does not want would only make the build's context larger.
    grep -qF "sha256:$(sha256sum "$wheel" | cut -d' ' -f1)" "locks/$target.txt" || continue
    cp --force --link "$wheel" locks/wheels/ 2>/dev/null || cp --force "$wheel" locks/wheels/
  done
fi

options=(--target "$target" --tag "$image" --build-arg "VERSION=$version"
  --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
[[ -z ${BASE_IMAGE:-} ]] || options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
[[ ! -r /etc/pip.conf ]] || options+=(--secret id=pip,src=/etc/pip.conf)
[[ ! -r /etc/ssl/certs/ca-certificates.crt ]] || options+=(--secret id=ca,src=/etc/ssl/certs/ca-certificates.crt)
# A daemon without a bridge builds on the host's network.
"$docker" network inspect bridge >/dev/null 2>&1 || options+=(--network host)

DOCKER_BUILDKIT=1 "$docker" build "${options[@]}" .
echo "image: $image, $("$docker" image inspect --format '{{.Size}}' "$image" | numfmt --to=si)B" >&2

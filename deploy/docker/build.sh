#!/usr/bin/env bash
# Builds an image from this checkout with podman or docker, whichever is there; the same commit and base images give the
# same layers. Usage: build.sh [DOCKERFILE]; from the environment:
#   IMAGE         its name (default: warmroute/warmroute:VERSION)
#   BUILD_DIGEST, BASE_DIGEST    @sha256:… of the base images, for a build that can be repeated
#   IMAGE_FLAGS   further flags of `build`
# Exit status 3: there is neither.
set -euo pipefail
cd "$(dirname "$0")/../.."
file=${1:-deploy/docker/Dockerfile}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
image=${IMAGE:-warmroute/warmroute:$version}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
revision=$(git rev-parse HEAD)$(git diff --quiet HEAD || echo -dirty)
arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "SOURCE_DATE_EPOCH=$epoch"
    --build-arg "CREATED=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)")
for name in BUILD_DIGEST BASE_DIGEST; do
    if [ -n "${!name:-}" ]; then arguments+=(--build-arg "$name=${!name}"); fi
done
read -ra further <<<"${IMAGE_FLAGS:-}"
if command -v podman >/dev/null; then
    # OCI's own format has no health check.
    command=(podman build --format docker --timestamp "$epoch")
elif docker info >/dev/null 2>&1; then
    command=(docker build)
else
    echo "image: needs podman, or docker with its daemon running; found neither" >&2
    exit 3
fi
echo "building $image with ${command[0]} from $revision"
"${command[@]}" "${arguments[@]}" ${further[@]+"${further[@]}"} -t "$image" -f "$file" .

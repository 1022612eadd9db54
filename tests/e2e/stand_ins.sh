#!/usr/bin/env bash
# Makes images for tests where no image registry can be reached: each bears the name of a public image and is made of Debian's
# packages (and of a CPython of the right version, PYTHON_PREFIX or pyenv's). What is tested with them is ours, not theirs.
# Existing images are left alone. Usage: stand_ins.sh [python] [redis] [haproxy] [prometheus] [grafana] [pause]; default: all.
# Needs podman and debootstrap, as root.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${CONTAINERS_CONF:=$PWD/tests/e2e/containers.conf}"
export CONTAINERS_CONF
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
named() { sed -n "s,^ *image: \(docker.io/[^ ]*$1[^ ]*\)$,\1,p" deploy/compose/compose.yaml | head -1; }
version=$(sed -n 's/^ARG PYTHON_VERSION=//p' deploy/docker/Dockerfile)
debian=$(sed -n 's/^ARG DEBIAN=//p' deploy/docker/Dockerfile)
slim=docker.io/library/python:$version-slim-$debian
certificates=/etc/ssl/certs/ca-certificates.crt

from_slim() { # IMAGE CONTAINERFILE-LINES: a layer on the stand-in for Python's slim image
    podman image exists "$1" && return
    echo "stand-in: $1"
    { echo "FROM $slim" && cat; } >"$scratch/Containerfile"
    podman build -q --format docker --pull=never -v $certificates:$certificates:ro -t "$1" -f "$scratch/Containerfile" \
        "$scratch" >/dev/null
}
packages() { # PACKAGE…: the line that installs them
    echo "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends $* >/dev/null && rm -rf /var/lib/apt/lists/*"
}

make_python() {
    if ! podman image exists "$slim"; then
        echo "stand-in: $slim"
        local prefix=${PYTHON_PREFIX:-} minor=${version%.*} root=$scratch/root
        [ -n "$prefix" ] || prefix=$(find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -maxdepth 1 -name "$minor.*" | sort | tail -1)
        [ -x "$prefix/bin/python$minor" ] || { echo "stand_ins.sh: no Python $minor: set PYTHON_PREFIX" >&2 && exit 1; }
        debootstrap --variant=minbase --include=ca-certificates,netbase,tzdata,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8,zlib1g,libuuid1,libncursesw6,libexpat1 \
            "$debian" "$root" >"$scratch/debootstrap.log"
        rm -rf "$root"/usr/share/{doc,man,locale,info} "$root"/var/{cache/apt,lib/apt/lists,log}/*
        cp -a "$prefix/bin/python$minor" "$root/usr/local/bin/"
        cp -a "$prefix"/lib/libpython* "$root/usr/local/lib/" 2>/dev/null || true
        cp -a "$prefix/include/." "$root/usr/local/include/"
        cp -a "$prefix/lib/python$minor" "$root/usr/local/lib/"
        # As in the public image: no tests, no static library, no bytecode; of packages, pip alone.
        (
            cd "$root/usr/local/lib/python$minor"
            rm -rf test idlelib tkinter turtledemo config-"$minor"*/*.a lib-dynload/_tkinter*
            find site-packages -mindepth 1 -maxdepth 1 -not -name 'pip*' -exec rm -r {} +
            find . \( -name __pycache__ -o -name tests \) -prune -exec rm -r {} +
        )
        ln -s "python$minor" "$root/usr/local/bin/python3"
        ln -s python3 "$root/usr/local/bin/python"
        printf '#!/usr/local/bin/python3\nfrom pip._internal.cli.main import main\nimport sys\nsys.exit(main())\n' \
            | install -m 755 /dev/stdin "$root/usr/local/bin/pip"
        chroot "$root" ldconfig
        tar -C "$root" -c . | podman import --change 'CMD ["python3"]' \
            --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' - "$slim" >/dev/null
    fi
    from_slim "${slim/slim-/}" <<<"$(packages gcc libc6-dev binutils)"
}
make_redis() {
    from_slim "$(named valkey)" <<LINES
$(packages redis-server)
RUN ln -s redis-server /usr/bin/valkey-server && ln -s redis-cli /usr/bin/valkey-cli
USER 999:1000
WORKDIR /data
LINES
}
make_haproxy() {
    from_slim "$(named haproxy)" <<LINES
$(packages haproxy busybox)
RUN ln -s busybox /bin/wget && mkdir -p /usr/local/etc/haproxy
USER 99:99
ENTRYPOINT ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
CMD []
LINES
}
make_prometheus() {
    from_slim "$(named prometheus)" <<LINES
$(packages prometheus busybox)
RUN ln -s busybox /bin/wget && mkdir -p /prometheus && chown 65534:65534 /prometheus
USER 65534:65534
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
LINES
}
# Grafana is in neither Debian nor PyPI. This one shows only that its files are where Grafana looks, and well formed.
make_grafana() {
    cat >"$scratch/grafana.py" <<'GRAFANA'
import http.server, json, pathlib
provisioning = pathlib.Path("/etc/grafana/provisioning")
assert "url: http://prometheus:9090" in (provisioning / "datasources/prometheus.yaml").read_text()
folder = (provisioning / "dashboards/warmroute.yaml").read_text().split("path: ")[1].split("}")[0]
for file in pathlib.Path(folder).glob("*.json"):
    assert json.loads(file.read_text())["title"], file
pathlib.Path("/var/lib/grafana/grafana.db").write_text("written")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
http.server.ThreadingHTTPServer(("", 3000), Handler).serve_forever()
GRAFANA
    from_slim "$(named grafana)" <<LINES
$(packages busybox)
RUN ln -s busybox /bin/wget && mkdir -p /var/lib/grafana && chown 472:0 /var/lib/grafana
COPY grafana.py /grafana.py
USER 472:0
ENTRYPOINT ["python", "/grafana.py"]
LINES
}
# Holds a pod's namespaces and reaps what is left over there.
make_pause() {
    from_slim docker.io/warmroute/pause:test <<LINES
$(packages catatonit)
ENTRYPOINT ["catatonit", "-P"]
LINES
}

make_python
for name in "${@:-redis haproxy prometheus grafana pause}"; do
    for each in $name; do "make_$each"; done
done

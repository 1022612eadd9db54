# Load tests with locust, for the chart's Job and for `docker run`: the router's own image has no locust in it.
#
#   IMAGE=warmroute/loadtest:0.1.0 deploy/docker/build.sh deploy/docker/loadtest.Dockerfile
#   docker run --rm --read-only --tmpfs /tmp warmroute/loadtest:0.1.0 \
#       python -m warmroute_loadtest.locust SCENARIO=multi-turn URL=http://10.0.0.5:8000 OUT=/tmp/results
ARG PYTHON_VERSION=3.13.9
ARG DEBIAN=bookworm
ARG BASE_DIGEST=

FROM docker.io/library/python:${PYTHON_VERSION}-slim-${DEBIAN}${BASE_DIGEST}
ARG VERSION=0
LABEL org.opencontainers.image.title="Warmroute load tests" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/opt/warmroute/router:/opt/warmroute/replica:/opt/warmroute/loadtest
WORKDIR /opt/warmroute
COPY requirements-loadtest.lock LICENSE ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --only-binary :all: --require-hashes -r requirements-loadtest.lock
# Records are read with the simulator's readers, which need the router's fingerprints; nothing is compiled.
COPY router router
COPY replica replica
COPY loadtest loadtest
USER 10001:10001
CMD ["python", "-m", "warmroute_loadtest.locust", "HELP=1"]

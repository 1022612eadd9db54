# A replica: the official vLLM image with `warmroute-replica` beside it, which starts vLLM and tells routers of it.
#
#   IMAGE=warmroute/replica:TAG deploy/docker/build.sh deploy/docker/replica.Dockerfile
#   docker run --gpus all -e WARMROUTE_AGENT_REDIS=redis://HOST:6379 warmroute/replica:TAG -- vllm serve MODEL
#
# What Warmroute needs is in an environment of its own: vLLM finds its packages as they were. Where the agent runs in a
# container beside vLLM, as in the Helm chart, this image is not needed.
ARG PYTHON_VERSION=3.13.9
ARG DEBIAN=bookworm
ARG BUILD_DIGEST=
ARG VLLM_VERSION=v0.32.0
ARG BASE_DIGEST=

# Not compiled: the request path is the router's, and so the wheel suits any Python that the vLLM image has.
FROM docker.io/library/python:${PYTHON_VERSION}-slim-${DEBIAN}${BUILD_DIGEST} AS build
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore WARMROUTE_COMPILE=0
WORKDIR /src
COPY requirements-build.lock ./
RUN python -m pip install --only-binary :all: --require-hashes -r requirements-build.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY router router
COPY replica replica
COPY loadtest loadtest
RUN python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheel .

FROM docker.io/vllm/vllm-openai:${VLLM_VERSION}${BASE_DIGEST}
ARG VERSION=0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG VLLM_VERSION
LABEL org.opencontainers.image.title="Warmroute replica" \
      org.opencontainers.image.description="vLLM ${VLLM_VERSION} with Warmroute's agent" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY requirements.lock /opt/warmroute/
COPY --from=build /wheel /opt/warmroute/wheel
COPY deploy/docker/healthcheck.py /opt/warmroute/
# vLLM's image has a Python and pip of its own, which both write into the new environment alone. Only the one command is put
# on the path, so that `python3` and `vllm` remain the image's.
RUN python3 -m venv --without-pip /opt/warmroute \
    && python3 -m pip --python /opt/warmroute/bin/python install --no-cache-dir \
        --only-binary :all: --require-hashes -r /opt/warmroute/requirements.lock \
    && python3 -m pip --python /opt/warmroute/bin/python install --no-cache-dir \
        --no-index --no-deps /opt/warmroute/wheel/*.whl \
    && ln -s /opt/warmroute/bin/warmroute-replica /usr/local/bin/warmroute-replica \
    && warmroute-replica --help >/dev/null
# The engine; and the agent's health, metrics and drain.
EXPOSE 8000 8011
STOPSIGNAL SIGTERM
# That the agent lives: whether routers send requests is decided by its heartbeat, and a model takes minutes to load.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["/opt/warmroute/bin/python", "-SI", "/opt/warmroute/healthcheck.py", "http://127.0.0.1:8011/healthz"]
ENTRYPOINT ["warmroute-replica", "serve"]

# One image for every service and job of fusery, in two targets that differ in torch alone: cpu and gpu.
#
#   docker build --target cpu --tag fusery:0.1.0 .
#   docker build --target gpu --tag fusery:0.1.0-gpu .
#
# BuildKit is needed (DOCKER_BUILDKIT=1). BASE_IMAGE: Debian 12, or another Debian or Ubuntu with Python 3.11; it is
# given Python where it has none. Packages come with the hashes of locks/. Two optional secrets and one folder serve
# builders behind an index or a mirror of their own: pip (a pip.conf), ca (authorities as PEM), locks/wheels (files that
# pip takes before it asks an index; their hashes must be those of the lock).
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS python
RUN command -v python3 >/dev/null || { apt-get update && DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends python3 ca-certificates && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log; }

FROM python AS builder
RUN python3 -c 'import ensurepip' 2>/dev/null || { apt-get update && DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*; }
# pip lives beside the environment that it fills, so that the environment goes into the image without it.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/fusery
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

FROM builder AS packages-cpu
RUN --mount=type=bind,source=locks,target=/locks --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=scripts/image_packages.sh,target=/packages.sh \
    --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    sh /packages.sh cpu

FROM builder AS packages-gpu
RUN --mount=type=bind,source=locks,target=/locks --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=scripts/image_packages.sh,target=/packages.sh \
    --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    sh /packages.sh gpu

# fusery itself, apart from its packages: a change of its code changes a layer of 2 MB.
FROM builder AS code
RUN --mount=type=bind,source=locks,target=/locks --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    /opt/pip/bin/pip install --require-hashes --requirement /locks/build.txt
COPY pyproject.toml README.md LICENSE /build/
COPY services /build/services
RUN /opt/pip/bin/pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir /wheels /build && \
    /opt/pip/bin/pip --python /opt/fusery/bin/python install --quiet --no-deps --no-index --target /opt/app /wheels/*.whl

FROM python AS runtime
# No installer in what runs; the package list stays, for scanners.
RUN rm -rf /usr/bin/apt* /usr/lib/apt /var/lib/apt /var/cache/apt /etc/apt /usr/bin/dpkg* \
    /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip && \
    echo 'fusery:x:10001:10001:fusery:/tmp:/usr/sbin/nologin' >>/etc/passwd && \
    echo 'fusery:x:10001:' >>/etc/group && \
    install -d -o 10001 -g 10001 -m 0770 /store /work /models /mlflow
# All that is written outside the mounted folders goes to /tmp, so the root file system may be read-only.
ENV PATH=/opt/app/bin:/opt/fusery/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp USER=fusery XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba \
    TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1 MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false MLFLOW_ALLOW_MODEL_CODE_EXECUTION=false
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["fusery"]
CMD ["--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fusery" \
    org.opencontainers.image.description="Fuse several LLMs of different architectures and tokenizers into one" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM runtime AS gpu
COPY --from=packages-gpu /opt/fusery /opt/fusery
COPY --from=code /opt/app /opt/app
# What the container runtime of NVIDIA is to hand in.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
COPY --from=packages-cpu /opt/fusery /opt/fusery
COPY --from=code /opt/app /opt/app

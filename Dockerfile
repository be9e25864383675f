# One image for CPU and GPU: which it is, is a matter of BASE and LOCK.
#
#   docker build --build-arg GIT_COMMIT=$(git rev-parse HEAD) -t reinit:cpu .
#   docker build --build-arg GIT_COMMIT=$(git rev-parse HEAD) --build-arg LOCK=gpu -t reinit:gpu .
#
# The cpu lock names PyTorch's CPU build, which is on PyTorch's own index: add --build-arg PIP_EXTRA_INDEX_URL=...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# This project alone. First, so that a build without a commit ends before anything large is fetched.
FROM ${BASE} AS code
ARG GIT_COMMIT
# Provenance of every result: an image without it must not exist.
RUN test -n "${GIT_COMMIT}" || { echo "say --build-arg GIT_COMMIT=\$(git rev-parse HEAD)" >&2; exit 1; }
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN ["python3", "-m", "venv", "/opt/reinit"]
COPY pyproject.toml README.md LICENSE /build/
COPY jobs /build/jobs
COPY reinit /build/reinit
COPY aggregate /build/aggregate
RUN ["/opt/reinit/bin/pip", "install", "--quiet", "--no-deps", "--prefix", "/opt/code", "/build"]

# What it needs: everything by hash, and nothing that the lock does not name.
FROM ${BASE} AS packages
ARG LOCK=cpu
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 DS_BUILD_OPS=0
RUN ["python3", "-m", "venv", "/opt/reinit"]
COPY locks/${LOCK}.txt /build/lock.txt
COPY locks/sbom.py /build/sbom.py
# No use in an image that runs: pip, the packages' own tests, and PyTorch's headers and protoc, for there is no compiler.
RUN /opt/reinit/bin/pip install --quiet --require-hashes --no-deps -r /build/lock.txt \
 && python3 /build/sbom.py /build/lock.txt > /opt/reinit/sbom.cdx.json \
 && /opt/reinit/bin/pip uninstall --quiet --yes pip \
 && find /opt/reinit/lib \
    \( -type d \( -name tests -o -path '*/torch/test' -o -path '*/torch/include' \) \
    -o -type f -path '*/torch/bin/*' ! -name torch_shm_manager \) -prune -exec rm -rf {} +

FROM ${BASE}
# Two layers: of the next commit's image a node fetches the small one alone.
COPY --from=packages /opt/reinit /opt/reinit
COPY --from=code /opt/code /opt/reinit
ARG BASE
ARG GIT_COMMIT
LABEL org.opencontainers.image.title="reinit" \
      org.opencontainers.image.description="Partial reinitialisation of pretrained transformers, one cell a Job" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${GIT_COMMIT}" \
      org.opencontainers.image.base.name="${BASE}"
# What is installed, by name, version and hash: /opt/reinit/sbom.cdx.json (CycloneDX).
# The root file system is read-only in a pod: everything that libraries write goes to /tmp.
ENV PATH=/opt/reinit/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    REINIT_GIT_COMMIT=${GIT_COMMIT} \
    XDG_CACHE_HOME=/tmp/cache \
    TORCH_EXTENSIONS_DIR=/tmp/torch-extensions \
    TRITON_CACHE_DIR=/tmp/triton
WORKDIR /tmp
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
ENTRYPOINT ["python", "-m", "reinit"]

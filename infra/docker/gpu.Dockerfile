# When: scoring with CLIP, tokenising with Chameleon or MoVQ, and training: nodes with A100 or H100 GPUs.
# Build: docker build -f infra/docker/gpu.Dockerfile -t ghcr.io/rasterloom/rasterloom:0.1.0-gpu .
# Check: docker run --rm --gpus all --shm-size 16g ghcr.io/rasterloom/rasterloom:0.1.0-gpu rasterloom doctor

# The same Python as in cpu.Dockerfile: Ray rejects nodes with another one. The CUDA libraries that come with torch
# are enough at run time, so the toolkit stays in the stage that builds flash-attn.
ARG CUDA=13.0.2
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS cuda

FROM python:3.11.14-bookworm AS build
COPY --from=cuda /usr/local/cuda /usr/local/cuda
RUN python -m venv /opt/rasterloom
ENV CUDA_HOME=/usr/local/cuda PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/rasterloom/bin:/usr/local/cuda/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# PyPI's torch comes with CUDA libraries; their version must be the one that flash-attn is built with.
RUN pip install -c constraints.txt torch setuptools wheel packaging ninja psutil
# Built here once: on a node it takes an hour. 80: A100, 90: H100. One build job takes some 4 GB of memory.
ARG FLASH_ATTN=2.8.3.post2
ARG MAX_JOBS=8
RUN FLASH_ATTN_CUDA_ARCHS="80;90" MAX_JOBS=${MAX_JOBS} \
    pip install --no-build-isolation --no-deps flash-attn==${FLASH_ATTN} && pip install einops
COPY pyproject.toml README.md LICENSE ./
COPY rasterloom ./rasterloom
RUN pip install -c constraints.txt '.[hf,language,nsfw,ocr]'

FROM python:3.11.14-slim-bookworm
# g++: triton and DeepSpeed build small kernels on first use. wget: for KubeRay's probes. libgomp1: for torch. tini:
# reaps processes that a job leaves behind. openssh-client and rsync: for `ray up`.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates g++ libgomp1 openssh-client \
        rsync tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray
# EFA between nodes: libfabric, and aws-ofi-nccl, by which NCCL uses it. It has libibverbs and librdmacm, too, for
# InfiniBand. The last line fails where NCCL would not find the plugin and take TCP.
ARG EFA=1.47.0
RUN wget -q https://efa-installer.amazonaws.com/aws-efa-installer-${EFA}.tar.gz -O /tmp/efa.tar.gz \
    && tar -xzf /tmp/efa.tar.gz -C /tmp && cd /tmp/aws-efa-installer && apt-get update \
    && ./efa_installer.sh -y --skip-kmod --skip-limit-conf --no-verify \
    && rm -rf /tmp/efa.tar.gz /tmp/aws-efa-installer /var/lib/apt/lists/* \
    && dirname /opt/amazon/efa/lib/libfabric.so.1 $(find /opt/amazon -name libnccl-net.so) > /etc/ld.so.conf.d/efa.conf \
    && ldconfig && ldconfig -p | grep -q libnccl-net.so
COPY --from=build /opt/rasterloom /opt/rasterloom
COPY infra/docker/login.sh /etc/profile.d/rasterloom.sh
COPY infra/docker/retry.sh /usr/local/bin/rasterloom-retry
# HOME: `ray up` mounts the files of a user there, and takes /root where an image does not say.
ENV HOME=/home/ray PATH=/opt/rasterloom/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 MALLOC_ARENA_MAX=4 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ray
WORKDIR /home/ray
ENTRYPOINT ["tini", "--"]
CMD ["rasterloom", "--help"]

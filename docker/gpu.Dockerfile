# Roundhouse for machines with NVIDIA devices: the programs with their kernels, on CUDA's base image.
#
#   docker build -f docker/gpu.Dockerfile -t roundhouse:gpu .
#
# The driver is the machine's: NVIDIA's container toolkit puts it into the container, and the program looks for it when it starts. So the
# same program runs on a plain base, too: --build-arg BASE=debian:bookworm-slim. The stage `prebuilt` takes programs from
# docker/programs/, as in cpu.Dockerfile.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04
ARG RUST=rust:1.95-bookworm

FROM ${BASE} AS runtime
# tini is process 1: it forwards signals to the program and reaps what the program's children leave behind.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*
# Volumes take owner and mode of the folder below them. Anybody may write there, so that --user may name another user.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin roundhouse \
    && mkdir -m 1777 /keys /data /proofs
COPY docker/health docker/sbom /usr/local/bin/
COPY LICENSE-APACHE LICENSE-MIT Cargo.lock /usr/share/roundhouse/
RUN sbom /usr/share/roundhouse/Cargo.lock >/usr/share/roundhouse/sbom.cdx.json
ENV HOME=/tmp ROUNDHOUSE_KEYS=/keys ROUNDHOUSE_LISTEN=0.0.0.0:3312
# What the toolkit puts into the container: CUDA's driver, and the management library that tells temperature and power.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 10001:10001
# A process is ready once its keys are loaded and its devices are tested, which may take a minute.
HEALTHCHECK --interval=10s --timeout=6s --start-period=180s --retries=3 CMD ["health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tini", "--", "prover"]
CMD ["--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Roundhouse, with kernels for NVIDIA devices" \
      org.opencontainers.image.description="From a batch's input to one small proof: the programs prover and prover_cli" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

FROM runtime AS prebuilt
COPY docker/programs/prover docker/programs/prover_cli /usr/local/bin/

# Only what the dependencies hang on: while it stays the same, they stay compiled.
FROM ${RUST} AS skeleton
COPY . /sources
RUN /sources/docker/skeleton /sources /skeleton

FROM ${RUST} AS built
ENV SQLX_OFFLINE=true
# NVIDIA's compiler in a layer of its own: it changes least. It is 250 MB, and stays out of the image.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip g++
COPY scripts/fetch-nvcc /fetch-nvcc
RUN /fetch-nvcc /nvcc
WORKDIR /build
COPY --from=skeleton /skeleton .
RUN cargo build --release --locked -p prover -p prover-cli
COPY . .
# The empty programs are younger than the real ones; cargo goes by the time.
RUN find crates prover-cli -name '*.rs' -exec touch {} + \
    && export NVCC=/nvcc/nvidia/cu13/bin/nvcc && test -x "$NVCC" \
    && cargo build --release --locked -p prover -p prover-cli \
    && strip target/release/prover target/release/prover_cli

FROM runtime
COPY --from=built /build/target/release/prover /build/target/release/prover_cli /usr/local/bin/

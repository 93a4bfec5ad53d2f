# The project with everything it needs, for machines with GPUs:
#
#   docker build --tag maformer .
#   docker build --tag maformer --build-arg CONSTRAINTS=requirements/v100.txt .    # for V100
#
# torch's wheels bring CUDA; the machine needs NVIDIA's driver and its container toolkit.
# docs/clusters.md says how to run it.
FROM python:3.12-slim-bookworm

# torch.compile, behind --compile, calls the compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /maformer
COPY . .

# make reads it from the environment, so that later calls do not set up again without it.
ARG CONSTRAINTS=
ENV CONSTRAINTS=$CONSTRAINTS PIP_NO_CACHE_DIR=1
RUN make setup

ENV PATH=/maformer/.venv/bin:$PATH
CMD ["python", "-m", "reproduce", "--help"]

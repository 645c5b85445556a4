# One image for every role; compose.yaml says which one a container runs.
FROM python:3.11-slim
WORKDIR /council
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY schemas schemas
COPY recordings recordings
COPY transport transport
COPY runtime runtime
COPY producers producers
COPY aggregator aggregator
COPY consumers consumers
COPY council council
RUN python -m pip install --no-cache-dir --constraint constraints.txt .
# A volume that is mounted here belongs to the user below. Nothing else is written to disk, and nothing needs root.
RUN mkdir -m 700 /recordings && chown 65534:65534 /recordings
USER 65534:65534

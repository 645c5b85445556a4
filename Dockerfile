# One image for all roles; compose.yaml has the command of each.
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
# The folder belongs to the user below, and so does a volume that is mounted there. No role writes another file or needs root.
RUN mkdir -m 700 /recordings && chown 65534:65534 /recordings
USER 65534:65534

# One image for every role; compose.yaml says which one a container runs.
FROM python:3.11-slim
WORKDIR /council
COPY pyproject.toml constraints.txt README.md ./
COPY schemas schemas
COPY transport transport
COPY producers producers
COPY aggregator aggregator
COPY consumers consumers
COPY council council
RUN python -m pip install --no-cache-dir --constraint constraints.txt .
# Nothing here needs to be root, and nothing is written to disk.
USER 65534:65534

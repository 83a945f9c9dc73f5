# The client, the workflow, and a Hypha server with the model-free engine. docs/containers.md
FROM python:3.12-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 \
    UV_PYTHON_DOWNLOADS=never \
    PATH=/opt/samcourier/.venv/bin:$PATH

WORKDIR /opt/samcourier
COPY . .

# As the Makefile installs: uv by pip, held to the lock's hash, then the project by uv, held to the
# lock's versions and hashes. Apptainer runs as whoever calls it, so everyone may read.
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.lock > /tmp/uv.lock \
    && python -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir --require-hashes --requirement /tmp/uv.lock \
    && .venv/bin/uv pip install --no-cache --compile-bytecode --python .venv/bin/python \
         --constraints requirements.lock --build-constraints requirements.lock \
         --editable '.[local,outputs]' \
    && .venv/bin/python -m compileall -q workflow service \
    && rm /tmp/uv.lock \
    && chmod -R a+rX . \
    && useradd --create-home --uid 1000 samcourier \
    && install -d -o samcourier /data

USER 1000
WORKDIR /data
CMD ["samcourier", "--help"]

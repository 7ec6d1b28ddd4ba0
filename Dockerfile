# The sidecar: no torch, no vLLM, no compiler, not root.
#   docker build -t featurewatch-sidecar .
#   docker run --rm -v /run/featurewatch:/run/featurewatch featurewatch-sidecar
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY monitor monitor
COPY training training
# A virtual environment can be copied as one folder into the runtime stage.
RUN python -m venv /opt/featurewatch \
 && /opt/featurewatch/bin/pip install --no-cache-dir .

FROM python:3.11-slim
LABEL org.opencontainers.image.title="featurewatch-sidecar" \
      org.opencontainers.image.description="Judges a language model's live residual stream against policies" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home-dir /var/lib/featurewatch --create-home featurewatch \
 && install -d -o featurewatch -g featurewatch /run/featurewatch
COPY --from=build /opt/featurewatch /opt/featurewatch
COPY zoo /usr/share/featurewatch/zoo
COPY policies /usr/share/featurewatch/policies
ENV PATH=/opt/featurewatch/bin:$PATH \
    FEATUREWATCH_HOME=/var/lib/featurewatch \
    NUMBA_CACHE_DIR=/var/lib/featurewatch/numba \
    PYTHONUNBUFFERED=1
USER featurewatch
VOLUME ["/run/featurewatch", "/var/lib/featurewatch"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["featurewatch"]
CMD ["sidecar", "--listen", "unix:/run/featurewatch/sidecar.sock", \
     "--zoo", "/usr/share/featurewatch/zoo", "--policies", "/usr/share/featurewatch/policies"]

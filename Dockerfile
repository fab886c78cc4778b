# The server of `cgrseg serve`. Build: docker build -t cgrseg . — see docs/serve.md for running it.
FROM python:3.13-slim
WORKDIR /build
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY requirements/dev.txt requirements/dev.txt
COPY src src
# The tested versions, without the packages that the server doesn't need.
RUN sed -nE 's/^([A-Za-z0-9._-]+==[^ ;]+).*/\1/p' requirements/dev.txt > constraints.txt \
    && pip install --no-cache-dir --constraint constraints.txt ".[serve]" \
    && rm -r /build
WORKDIR /
RUN useradd --uid 10001 --no-create-home cgrseg
USER 10001
ENV HOME=/tmp PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["cgrseg", "serve", "--host", "0.0.0.0"]
CMD ["--weights", "cgrseg_t-ccp12"]

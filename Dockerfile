# An image for `cgrseg serve`. Build it with docker build -t cgrseg . and see docs/serve.md.
FROM python:3.13-slim
WORKDIR /build
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY requirements/dev.txt requirements/dev.txt
COPY src src
# The tested versions, without packages that the server does not need.
RUN sed -nE 's/^([A-Za-z0-9._-]+==[^\\]+).*/\1/p' requirements/dev.txt > constraints.txt \
    && pip install --no-cache-dir --constraint constraints.txt ".[serve]" \
    && rm -r /build
WORKDIR /
RUN useradd --uid 10001 --no-create-home cgrseg
USER 10001
ENV HOME=/tmp PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["cgrseg", "serve", "--host", "0.0.0.0"]
CMD ["--weights", "cgrseg_lite-voc21"]

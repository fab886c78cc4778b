"""`cgrseg serve`: the segmenter behind an HTTP address."""

from __future__ import annotations

from cgrseg._process import share_cores


def serve(
    *,
    weights: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    bf16: bool = False,
    short_side: int | None = None,
    workers: int = 1,
    batch: int = 8,
    queue: int = 64,
    timeout: float = 30.0,
    read_timeout: float = 20.0,
    max_bytes: int = 2**25,
    max_pixels: int = 2**25,
    max_network_pixels: int = 2**22,
    key_file: str | None = None,
) -> int:
    """Answer HTTP requests with label maps: POST a photo to /v1/segment.

    The interface is described at /docs and /openapi.json; /health, /ready and /metrics are for machines. Logs
    go to standard error, one JSON object a line. SIGTERM and Ctrl-C finish what was taken, then end. A key,
    read from --key-file or the environment variable CGRSEG_API_KEY, locks /v1 (`Authorization: Bearer KEY`).

    Args:
        weights: a weights file, or the name of weights that come with cgrseg
        host: where to listen; 0.0.0.0 for everyone
        port: where to listen
        device: auto, cpu, cuda or cuda:N
        bf16: let the network compute in bfloat16, where the device has it: faster, a few labels change
        short_side: resize photos for the network so that the shorter side has this many pixels, 0 for no
            resizing; default: what the weights say. Answers have the photo's own size
        workers: processes, each with its own model; cores are shared out
        batch: photos of equal padded size that go through the network together
        queue: photos that may wait in each worker; beyond it the answer is 503 with Retry-After
        timeout: seconds from queue to answer; then 504
        read_timeout: seconds for a request to arrive; then 408
        max_bytes: largest file
        max_pixels: largest photo, width x height, checked before it is decoded
        max_network_pixels: largest padded input of the network, width x height
        key_file: file that holds the key
    """
    share_cores()
    import os
    from pathlib import Path

    for flag, value in (("workers", workers), ("batch", batch), ("queue", queue), ("max_bytes", max_bytes)):
        if value < 1:
            raise ValueError(f"--{flag.replace('_', '-')} is {value}: it must be at least 1")
    if not 0 <= port < 2**16:
        raise ValueError(f"--port is {port}: choose one from 1 to 65535, or 0 for any that is free")
    key = os.environ.pop("CGRSEG_API_KEY", None)
    if key_file is not None:
        key = Path(key_file).read_text(encoding="utf-8").strip()
    if key is not None and not key:
        raise ValueError(f"{key_file or 'CGRSEG_API_KEY'} holds no key: write one into it, or leave it out")

    try:
        from cgrseg.server.app import ServerConfig
        from cgrseg.server.app import serve as run
        from cgrseg.server.uploads import Limits
    except ImportError as error:
        raise ValueError(f'the server needs {error.name}: pip install "cgrseg[serve]"') from error
    limits = Limits(
        bytes=max_bytes,
        pixels=max_pixels,
        network_pixels=max_network_pixels,
        queue=queue,
        batch=batch,
        seconds=timeout,
        read_seconds=read_timeout,
    )
    config = ServerConfig(host=host, port=port, workers=workers, limits=limits, key=key)
    run(weights, config, device=device, short_side=short_side, bf16=bf16)
    return 0

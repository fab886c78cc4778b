"""Deploying a model: `cgrseg benchmark`, `serve`, `push` and `convert`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cyclopts.types import NonNegativeInt, Port, PositiveInt

from cgrseg._text import printable

from ._common import Weights, check_folder, check_weights, parse_size


def benchmark(
    model: str,
    /,
    *,
    compare: list[str] | None = None,
    size: str = "512x512",
    rounds: PositiveInt = 20,
    threads: PositiveInt | None = None,
    num_classes: PositiveInt = 150,
    photo: Path | None = None,
    max_batch: PositiveInt = 16,
    device: str = "auto",
    out: Path = Path("outputs/benchmark"),
) -> None:
    """Measure the speed of models and files on this machine.

    Measures latency, throughput, memory, cold start, and the stages from image file to label map, in turn for all
    candidates. Prints tables and writes benchmark.json and benchmark.png.

    A candidate is NAME or NAME:HOW. NAME is a model (cgrseg_t, segnext_t, …; random weights), a weights file, an
    exported file (.onnx, .xml) or another model of the paper's tables, such as seaformer_l; docs/paper.md lists them,
    and some need the extra "peers". HOW is channels_last (default, as in a Segmenter), fused, eager, naive (not fused,
    official bias mode, label map by upsampling, softmax and argmax), compiled, onnx or openvino; other models run as
    eager, compiled or openvino. A last :bf16 computes in bfloat16, openvino:int8 in 8 bits.

    Example: `cgrseg benchmark cgrseg_t --compare cgrseg_t:openvino segnext_t`

    Args:
        model: the candidate that the others are compared with
        compare: the other candidates
        size: height and width of the network's input
        rounds: number of turns of each candidate
        threads: CPU threads; default: one per core
        num_classes: number of classes of models with random weights
        photo: an image file, resized to --size; default: a sample of that size
        max_batch: the largest batch that is tried for the throughput
        device: auto, cpu, cuda or cuda:N
        out: output folder
    """
    shape = parse_size(size)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")

    from cgrseg._process import cores
    from cgrseg.images.photos import read_photo

    content = None
    if photo is not None:
        read_photo(photo)  # raises if it is not an image
        content = photo.read_bytes()

    from cgrseg.measure import speed
    from cgrseg.measure.candidates import Settings, parse
    from cgrseg.measure.report import render, summary, write_chart, write_report
    from cgrseg.paper.published import speeds

    settings = Settings(shape, rounds, cores() if threads is None else threads, num_classes, device, max_batch)
    report = speed.benchmark([parse(text) for text in (model, *(compare or []))], settings, photo=content)
    write_report(report, out / "benchmark.json")
    write_chart(report, out / "benchmark.png")
    files = [printable(out / name) for name in ("benchmark.json", "benchmark.png")]
    print(f"{summary(report)}\n\n{render(report, speeds())}", *files, sep="\n")


def serve(
    *,
    weights: Weights,
    host: str = "127.0.0.1",
    port: Port = 8000,
    device: str = "auto",
    bf16: bool = False,
    short_side: int | None = None,
    workers: PositiveInt = 1,
    batch: PositiveInt = 8,
    queue: PositiveInt = 64,
    timeout: float = 30.0,
    read_timeout: float = 20.0,
    max_bytes: PositiveInt = 2**25,
    max_pixels: PositiveInt = 2**25,
    max_network_pixels: NonNegativeInt = 0,
    key_file: Path | None = None,
) -> None:
    """Serve label maps over HTTP.

    POST an image to /v1/segment. The interface is described at /docs and /openapi.json; /health, /ready and /metrics
    are for monitoring. Logs are JSON lines on standard error. SIGTERM and Ctrl-C finish accepted requests, then stop
    the server. A key from --key-file or the environment variable CGRSEG_API_KEY protects /v1: requests then need the
    header `Authorization: Bearer KEY`. Needs the extra "serve".

    Example: `cgrseg serve --weights cgrseg_lite-voc21 --port 8000`

    Args:
        weights: a weights file, the name of bundled weights, hf:USER/NAME, or a file of `cgrseg export`
        host: address to listen on; 0.0.0.0 accepts other machines
        port: port to listen on; 0 for any free one
        device: auto, cpu, cuda or cuda:N
        bf16: compute in bfloat16: faster, a few labels change; an error if the device has none
        short_side: shorter side in pixels that images are resized to for the network, 0 for no resizing; default:
            as stored in the weights. Label maps have the size of the image
        workers: processes, each with its own model; they share the cores
        batch: images of equal padded size that are processed together
        queue: waiting images per worker; if more arrive, the answer is 503 with Retry-After
        timeout: seconds from queue to answer; otherwise 504
        read_timeout: seconds for a request to arrive; otherwise 408
        max_bytes: largest file
        max_pixels: largest image, width x height, checked before it is decoded
        max_network_pixels: largest padded input of the network, width x height; 0: as many as this machine labels in
            a quarter of --timeout, measured at the start
        key_file: file with the key
    """
    check_weights(weights)
    key = os.environ.pop("CGRSEG_API_KEY", None)
    if key_file is not None:
        if not key_file.is_file():
            raise FileNotFoundError(f"--key-file {key_file} is not a file: write the key into one, and name it")
        key = key_file.read_text(encoding="utf-8").strip()
    if key is not None and not key:
        raise ValueError(f"{key_file or 'CGRSEG_API_KEY'} has no key: write one into it, or leave it out")
    if key is not None and not key.isascii():
        raise ValueError(
            f"{key_file or 'CGRSEG_API_KEY'} has letters outside of ASCII, which HTTP cannot send: use others"
        )

    from cgrseg._process import fast_imports

    try:
        with fast_imports():
            from cgrseg.server.app import ServerConfig
            from cgrseg.server.app import serve as run
            from cgrseg.server.uploads import Limits
    except ModuleNotFoundError as error:
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


def push(
    repository: str,
    /,
    *,
    weights: Weights,
    terms: str | None = None,
    limits: str | None = None,
    license: str = "other",
    private: bool = False,
    out: Path | None = None,
) -> None:
    """Upload weights with a model card to the Hugging Face hub.

    Uploads the weights file, config.json and a model card in one commit. The card states data, recipe, scores,
    limitations, the terms of the data and how to cite the paper, as stored in the weights file. Others then use
    --weights hf:USER/NAME. Log in first with `hf auth login`.

    Example: `cgrseg push me/street --weights runs/mine/best.safetensors --terms "CC BY 4.0"`

    Args:
        repository: USER/NAME; created if missing
        weights: a weights file, or the name of bundled weights
        terms: licence or terms of the training data, in one sentence; needed if the weights do not state it
        limits: known limitations; default: as stored in the weights, or from their scores
        license: licence of the weights in the hub's spelling: apache-2.0, cc-by-4.0, other
        private: make a new repository private
        out: write the files into this folder, and upload nothing
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is not a repository of the hub: write USER/NAME")
    check_weights(weights)
    if out is not None:
        check_folder(out)

    from cgrseg.weights import hub
    from cgrseg.weights.load import find_weights

    path = find_weights(weights)
    pages = hub.pages(path, repository, terms=terms, limits=limits, license=license)
    if out is not None:
        hub.write(path, pages, out)
        print(printable(f"{', '.join([hub.HUB_FILE, *pages])} in {out}, nothing was uploaded"))
        return
    print(f"{hub.push(path, pages, repository, private=private)}\nothers use it as --weights hf:{repository}")


def convert(source: Path, /, *, out: Path, classes: Path | None = None, model: str | None = None) -> None:
    """Convert a checkpoint to a weights file.

    Reads a released CGRSeg checkpoint, or a state dict of a model of this package. Only tensors are read: a file
    with other pickled objects is refused, and nothing in it is run. Released weights keep their arithmetic (bias
    mode "official") and the paper's test size (short side 512).

    Example: `cgrseg convert cgrseg-t-ade20k.pth --out cgrseg_t-ade20k.safetensors --classes classes.json`

    Args:
        source: the checkpoint (.pth, .pt, .bin or .safetensors)
        out: the weights file to write (.safetensors); it must not exist yet
        classes: a classes.json with names and colours; default: numbered classes
        model: cgrseg_t, cgrseg_b, …; default: by the shapes in the checkpoint
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already: choose another --out, or remove it first")
    check_weights(str(source))
    if classes is not None and not classes.is_file():
        raise FileNotFoundError(f"no class list at {classes}")

    from cgrseg.labels import LabelSpace
    from cgrseg.weights import pretrained
    from cgrseg.weights.artifact import save

    labels = None if classes is None else LabelSpace.from_classes_json(classes)
    network, report = pretrained.convert(source, name=model)
    spec = network.spec
    if labels is not None and len(labels) != spec.num_classes:
        raise ValueError(
            f"{classes} lists {len(labels)} classes, but {source} has {spec.num_classes}: "
            "use the list that the checkpoint was trained with"
        )
    save(network, out, labels=labels)
    print(f"{printable(source.name)}: {spec.name} on {spec.backbone}, {spec.num_classes} classes")
    print(printable(f"{report}"), printable(f"weights in {out}"), sep="\n")

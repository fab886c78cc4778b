"""What this machine has and lacks for cgrseg, with cures; printed by `cgrseg doctor`."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from statistics import median
from typing import Any

from cgrseg._process import busy, cores

from .interleave import clocked

# Extra -> purpose. Its packages are listed in pyproject.toml; "dev" and "docs" are for contributors.
EXTRAS = {
    "app": "the page, cgrseg app",
    "video": "labelling videos",
    "multiband": "TIFFs with other than three bands",
    "onnx": "ONNX export, its runtime and int8",
    "int8": "int8 files of OpenVINO",
    "openvino": "the same as int8, for older commands",
    "imagenet": "ImageNet weights of cgrseg_lite",
    "serve": "the HTTP server, cgrseg serve",
    "cluster": "many machines at once",
    "mat": "masks in .mat files",
    "peers": "other models in the benchmark",
    "tensorboard": "training log in TensorBoard",
    "wandb": "training log in Weights & Biases",
}
LIBRARIES = ("torch", "torchvision", "timm", "lightning-fabric", "safetensors", "huggingface_hub", "numpy", "pillow")
AGREEMENT = 0.9995  # share of pixels on which float32 and float64 must agree; bfloat16 by mistake gives 0.998


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        name: what was checked.
        state: the result.
        works: False if something is broken, not only missing.
        cure: a command or sentence that changes it.
    """

    name: str
    state: str
    works: bool = True
    cure: str = ""


def versions() -> list[Finding]:
    """Python, the system, cgrseg and the required libraries."""
    found = [Finding("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")]
    for name in ("cgrseg", *LIBRARIES):
        version = _version(name)
        cure = "" if version else 'pip install --upgrade --force-reinstall "cgrseg"'
        found.append(Finding(name, version or "missing", works=bool(version), cure=cure))
    return found


def devices() -> list[Finding]:
    """Processor, threads and accelerators, as torch sees them."""
    import torch

    count = cores()
    threads, limit = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    few = f"OMP_NUM_THREADS={limit} limits torch to {threads} of {count} cores: unset it for one fast process"
    found = [
        Finding("cpu", f"{count} cores, {torch.backends.cpu.get_cpu_capability()}, {_memory()}"),
        Finding("threads", f"{threads} for torch", cure=few if limit and threads < count else ""),
    ]
    if load := busy():
        found.append(Finding("load", load, cure="times below, and all work, take longer until it is less"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            found.append(Finding(f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"))
    else:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        cure = ""
        if shutil.which("nvidia-smi"):
            cure = "nvidia-smi exists, so there may be a GPU: update its driver, or install the torch build for it"
        found.append(Finding("cuda", f"no usable GPU ({built})", cure=cure))
    if torch.backends.mps.is_available():
        found.append(Finding("mps", "Apple GPU: --device mps"))
    return found


def processor() -> str:
    """The name of the processor; "" if unknown."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def runtimes() -> list[Finding]:
    """Installed runtimes and their devices."""
    found = [Finding("torch", _version("torch") or "missing")]
    for name, extra in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        if not (version := _version(name)):
            found.append(Finding(name, "not installed", cure=_install(extra)))
            continue
        try:
            module: Any = import_module(name)
            usable = module.get_available_providers() if extra == "onnx" else module.Core().available_devices
            found.append(Finding(name, f"{version}: {', '.join(usable)}"))
        except Exception as error:  # a broken native library can raise anything
            found.append(Finding(name, f"{version}, broken ({_line(error)})", works=False, cure=_install(extra)))
    return found


def extras() -> list[Finding]:
    """Each optional part: installed, or what to install."""
    needed: dict[str, list[str]] = {extra: [] for extra in EXTRAS}
    declared = metadata.requires("cgrseg") if _version("cgrseg") else None  # a source folder without metadata
    for requirement in declared or []:
        match = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", requirement)
        if match and match[2] in needed:
            needed[match[2]].append(match[1])
    found = []
    for extra, purpose in EXTRAS.items():
        missing = [name for name in needed[extra] if not _version(name)]
        state = f"without {', '.join(missing)}" if missing else "installed"
        found.append(Finding(extra, f"{state} ({purpose})", cure=_install(extra) if missing else ""))
    return found


def self_test(device: str = "auto") -> Finding:
    """Segment the sample photo with the bundled weights, on the device and in float64 on the CPU.

    Args:
        device: as for `cgrseg.load`.

    Returns:
        `works` if both agree on 99.95 % of the pixels.

    Raises:
        ValueError: there is no such device.
    """
    from pathlib import Path

    import matplotlib

    from cgrseg.inference.segmenter import Segmenter
    from cgrseg.weights.load import list_weights, load, usable_device

    place, name = usable_device(device), "self-test"
    if not (names := list_weights()):
        return Finding(name, "no bundled weights", works=False, cure="reinstall cgrseg: its weights are missing")
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    try:
        segmenter = Segmenter(names[0], device=str(place), short_side=160)
        labels = segmenter(photo).labels
        seconds = clocked(lambda: segmenter(photo))  # not of the first call
        exact = Segmenter(load(names[0], "cpu").double(), short_side=160)(photo).labels
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        return Finding(name, f"{names[0]} on {place}: {_line(error)}", works=False, cure="try --device cpu")
    agree = float((labels == exact).mean())
    state = f"{names[0]} on {place}: an image in {seconds:.2f} s, {agree:.2%} of the pixels as in float64"
    cure = "its arithmetic is wrong: turn reduced precision off, update torch and the driver, try --device cpu"
    return Finding(name, state, works=agree >= AGREEMENT, cure="" if agree >= AGREEMENT else cure)


def speeds() -> list[Finding]:
    """What each way to run the bundled weights on the CPU takes for an image of 512x512, network only."""
    import torch

    from cgrseg.inference import cache
    from cgrseg.inference.network import installed, open_network
    from cgrseg.weights.load import list_weights

    if not (names := list_weights()):
        return []
    ways: dict[str, dict[str, Any]] = {"torch": {"runtime": "torch"}, "torch bf16": {"runtime": "torch", "bf16": True}}
    if installed("openvino"):
        ways |= {"openvino": {"runtime": "openvino"}, "openvino bf16": {"runtime": "openvino", "bf16": True}}
    image, found = torch.zeros(1, 3, 512, 512), []
    for name, options in ways.items():
        try:
            with torch.inference_mode():
                network = open_network(names[0], device="cpu", **options)
                network(image)  # warm up
                seconds = median(clocked(partial(network, image)) for _ in range(5))
            found.append(Finding(name, f"{1000 * seconds:.0f} ms an image"))
        except (ValueError, OSError, RuntimeError) as error:
            found.append(Finding(name, _line(error)))
    found.append(Finding("int8", "is calibrated with images: cgrseg export --int8 …, then cgrseg benchmark"))
    folder = cache.cache_folder()
    found.append(Finding("cache", f"{folder}, {cache.size() / 1e6:.0f} MB; remove it with cgrseg doctor --clear-cache"))
    return found


def hub() -> Finding:
    """Where `hf:USER/NAME` is downloaded from and cached."""
    from huggingface_hub import constants

    offline = ", offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    return Finding("hub", f"{constants.ENDPOINT}, cache {constants.HF_HUB_CACHE}{offline}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory() -> str:
    if sys.platform == "win32":
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB of memory"


def _install(extra: str) -> str:
    return f'pip install "cgrseg[{extra}]"'


def _line(error: Any) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def summary() -> dict[str, Any]:
    """Versions, processor, devices and runtimes, ready for JSON."""
    findings = [*versions(), *devices(), *runtimes()]
    return {"processor": processor() or platform.machine()} | {one.name: one.state for one in findings}

"""The HTTP server: outputs, limits, hostile clients, and no response for the wrong request."""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn

from cgrseg.cli.main import main
from cgrseg.images.photos import photo_size, read_photo_bytes
from cgrseg.inference.outputs import MEDIA_TYPES, OutputOptions, encode
from cgrseg.inference.predictor import Prepared
from cgrseg.inference.segmenter import Segmenter
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.server import batching
from cgrseg.server.app import ServerConfig, uvicorn_config
from cgrseg.server.containers import clean_image
from cgrseg.server.responses import run_lengths
from cgrseg.server.routes import make_app
from cgrseg.server.uploads import Limits
from cgrseg.weights import artifact

COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
# Pillow warns about damaged files; the suite would turn these warnings into errors inside the server.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::UserWarning:TiffImagePlugin")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    model = build("cgrseg_n", num_classes=3)
    torch.nn.init.normal_(model.head.classifier.weight)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    artifact.save(model, path, labels=LabelSpace(names=("sky", "road", "tree"), colors=COLORS))
    return path


BATCHES = 3  # in progress if torch has one thread: one decoded, one in the network, one encoded


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def segmenter(weights: Path) -> Segmenter:
    return Segmenter(weights, device="cpu")


class Client:
    """Requests to a server at a port of this machine."""

    def __init__(self, port: int, uvicorn_server: uvicorn.Server) -> None:
        self.port, self.uvicorn = port, uvicorn_server

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, *, method: str | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def segment(self, body: Any, query: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(f"/v1/segment{query}", body, {"content-type": "image/png", **named})

    def waiting(self) -> float:
        match = re.search(rb"^cgrseg_waiting ([\d.]+)", self.ask("/metrics")[2], re.MULTILINE)
        assert match is not None
        return float(match[1])

    def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(3000):
            if holds():
                return
            time.sleep(0.01)
        raise AssertionError("condition not met within 30 s")


@contextmanager
def running(
    segmenter: Segmenter | dict[str, Callable[[str], Segmenter]], *, key: str | None = None, **limits: Any
) -> Iterator[Client]:
    openers = segmenter if isinstance(segmenter, dict) else {"tiny": lambda _: segmenter}
    config = ServerConfig(limits=Limits(**{"network_pixels": 2**22, **limits}), key=key)
    server = uvicorn.Server(uvicorn_config(lambda: make_app(openers, config), config))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        client = Client(listener.getsockname()[1], server)
        client.until(lambda: server.started)
        yield client
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(segmenter: Segmenter) -> Iterator[Client]:
    with running(segmenter, pixels=2**16, network_pixels=2**15, bytes=2**18, queue=2500) as server:
        yield server


def draw(seed: int, size: tuple[int, int] = (48, 40)) -> np.ndarray:
    """uint8 [H, W, 3] of coloured blocks; `size` is width, height."""
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-size[1] // 8), -(-size[0] // 8), 3), dtype=np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[: size[1], : size[0]]


def encoded(photo: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, kind, **options)
    return buffer.getvalue()


def form(*files: bytes, field: str = "file", boundary: str = "xyz") -> tuple[bytes, str]:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="a.png"\r\n\r\n'.encode()
        + file
        + b"\r\n"
        for file in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def labels_in(mask: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(mask)) as picture:
        assert picture.mode == "P" and picture.getpalette()[:9] == [value for color in COLORS for value in color]
        return np.asarray(picture)


class Gated(Segmenter):
    """Labels nothing before its gate is open."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, device="cpu")
        self.gate = threading.Event()

    def run(self, group: Any) -> Any:
        assert self.gate.wait(60)
        return super().run(group)


# Results.


def test_masks_equal_those_of_the_segmenter_for_bodies_and_forms(server: Client, segmenter: Segmenter) -> None:
    photo = draw(1, (61, 43))
    expected = segmenter(photo).labels
    assert len(np.unique(expected)) > 1
    status, headers, mask = server.segment(encoded(photo))
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "image/png", "no-store")
    np.testing.assert_array_equal(labels_in(mask), expected)
    body, kind = form(encoded(photo))
    status, _, mask = server.segment(body, content_type=kind)
    assert status == 200
    np.testing.assert_array_equal(labels_in(mask), expected)


def test_exif_orientation_is_applied(server: Client, segmenter: Segmenter) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = draw(2, (48, 32))
    upright = np.rot90(photo, -1)
    status, _, mask = server.segment(encoded(photo, exif=exif))
    assert status == 200
    np.testing.assert_array_equal(labels_in(mask), segmenter(upright).labels)


def test_an_overlay_is_a_jpeg_with_legend(server: Client, segmenter: Segmenter) -> None:
    photo = draw(3)
    status, headers, content = server.segment(encoded(photo), "?output=overlay&confidence=true")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    result = segmenter(photo)
    with Image.open(io.BytesIO(content)) as picture:
        expected = np.asarray(result.overlay()).astype(int)
        assert np.abs(np.asarray(picture.convert("RGB")) - expected).mean() < 6
    assert float(headers["x-confidence"]) == pytest.approx(result.confidence().mean(), abs=1e-3)


def test_json_has_shares_and_confidence(server: Client, segmenter: Segmenter) -> None:
    photo = draw(4)
    status, _, content = server.segment(encoded(photo), "?output=json&confidence=true")
    told, result = json.loads(content), segmenter(photo)
    assert (status, told["width"], told["height"]) == (200, 48, 40)
    assert {entry["name"]: entry["share"] for entry in told["classes"]} == pytest.approx(result.areas())
    confidence = result.confidence()
    for entry in told["classes"]:
        inside = result.labels == entry["id"]
        assert entry["pixels"] == inside.sum() and entry["color"] == list(COLORS[entry["id"]])
        assert entry["confidence"] == pytest.approx(confidence[inside].mean(), abs=1e-4)
    assert told["confidence"] == pytest.approx(confidence.mean(), abs=1e-4)


@pytest.mark.parametrize("output", ["outline", "cutout", "geojson", "coco", "csv"])
def test_the_outputs_of_predict_come_from_the_server_too(server: Client, segmenter: Segmenter, output: str) -> None:
    photo = draw(5)
    name, ids = segmenter.labels.names[0], [0, 2]
    query = f"?output={output}&threshold=0.4&tolerance=0&classes={quote(name)}&classes=2"
    status, headers, content = server.segment(encoded(photo), query)
    result = segmenter(photo).with_threshold(0.4)
    assert (status, headers["content-type"]) == (200, MEDIA_TYPES[output])
    if output == "cutout":
        with Image.open(io.BytesIO(content)) as picture:
            np.testing.assert_array_equal(np.asarray(picture)[..., 3] > 0, np.asarray(result.cutout(ids))[..., 3] > 0)
    elif output != "outline":
        assert content == encode(result, output, OutputOptions(ids, 0), file_name="photo")


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("?output=cutout&classes=nothing", "classes: no class is called 'nothing'"),
        ("?output=cutout", "classes: a cut-out needs classes"),
        ("?output=geojson&tolerance=nan", "tolerance"),
        ("?threshold=2", "threshold"),
    ],
)
def test_wrong_classes_tolerances_and_thresholds_are_refused(server: Client, query: str, complaint: str) -> None:
    status, _, content = server.segment(encoded(draw(5)), query)
    assert status == 422 and json.loads(content)["detail"].startswith(complaint)


def from_counts(counts: list[int], size: list[int]) -> np.ndarray:
    """Read uncompressed COCO run lengths."""
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return inside.reshape(size[::-1]).T


def test_run_lengths_rebuild_the_label_map(server: Client, segmenter: Segmenter) -> None:
    photo = draw(5, (50, 37))
    told = json.loads(server.segment(encoded(photo), "?output=rle")[2])
    labels = segmenter(photo).labels
    rebuilt = np.full_like(labels, 255)
    for entry in told["classes"]:
        rebuilt[from_counts(entry["rle"]["counts"], entry["rle"]["size"])] = entry["id"]
    np.testing.assert_array_equal(rebuilt, labels)


@pytest.mark.parametrize("labels", [[[0]], [[1, 1], [1, 1]], [[0, 2], [2, 0]], [[0, 0, 1], [1, 1, 0]]])
def test_run_lengths_alternate_from_outside_and_sum_to_the_photo(labels: list[list[int]]) -> None:
    array = np.array(labels, np.uint8)
    lengths = run_lengths(array)
    assert sorted(lengths) == np.unique(array).tolist()
    for label, counts in lengths.items():
        assert sum(counts) == array.size and all(counts[1:])
        np.testing.assert_array_equal(from_counts(counts, list(array.shape)), array == label)


def test_short_side_is_the_network_s_and_the_answer_keeps_the_photo_s_size(server: Client, weights: Path) -> None:
    photo = draw(6, (90, 60))
    status, _, mask = server.segment(encoded(photo), "?short_side=32")
    assert status == 200
    np.testing.assert_array_equal(labels_in(mask), Segmenter(weights, device="cpu", short_side=32)(photo).labels)


def test_overlays_take_an_alpha_and_files_a_name(server: Client, segmenter: Segmenter) -> None:
    photo = draw(6)
    result = segmenter(photo)
    _, headers, overlay = server.segment(encoded(photo), "?output=overlay&alpha=0.9")
    assert overlay == encode(result, "overlay", OutputOptions(alpha=0.9)) != encode(result, "overlay")
    assert (headers["x-runtime"], headers["x-network-input"]) == (segmenter.runtime, "48x40")
    _, _, csv = server.segment(encoded(photo), "?output=csv&file_name=a%20b.png")
    assert csv == encode(result, "csv", file_name="a b.png")
    assert server.segment(encoded(photo), "?output=confidence")[2] == encode(result, "confidence")
    for query in ("alpha=2", "weights=large", "runtime=onnx"):
        status, _, answer = server.segment(encoded(photo), f"?output=overlay&{query}")
        assert status == 422 and query.partition("=")[0] in json.loads(answer)["detail"]


def test_other_weights_are_loaded_at_their_first_use_and_failures_name_no_folders(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded: list[str] = []
    other = Segmenter(build("cgrseg_n", num_classes=2), device="cpu")

    def broken(runtime: str) -> Segmenter:
        raise ValueError(f"{tmp_path} is damaged")

    openers = {
        "tiny": lambda runtime: segmenter,
        "two": lambda runtime: [loaded.append(runtime), other][1],
        "broken": broken,
    }
    photo = draw(7)
    with running(openers) as server:
        assert json.loads(server.ask("/v1/model")[2])["weights"] == ["tiny", "two", "broken"] and loaded == []
        names = [each["name"] for each in json.loads(server.segment(encoded(photo), "?output=json")[2])["classes"]]
        assert set(names) <= {"sky", "road", "tree"}
        for _ in range(2):
            status, _, answer = server.segment(encoded(photo), "?output=json&weights=two")
            assert status == 200 and json.loads(answer)["classes"][0]["name"].startswith("class ")
        assert loaded == ["auto"]
        status, _, answer = server.segment(encoded(photo), "?weights=broken")
        detail = json.loads(answer)["detail"]
        assert (status, detail) == (500, "broken can't be loaded: the server's log says why")
        assert str(tmp_path) in caplog.text
        assert server.segment(encoded(photo))[0] == 200


def test_a_model_of_other_channels_is_refused_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grey.safetensors"
    artifact.save(build("cgrseg_n", num_classes=2, in_channels=1), path)
    for verb in ("serve", "app"):
        assert main([verb, "--weights", str(path), "--port", "0"]) == 2
        expected = f"cgrseg: {path} takes images of 1 channels; this is for RGB: use cgrseg predict\n"
        assert expected in capsys.readouterr().err


def test_the_model_route_has_names_colours_and_sizes(server: Client) -> None:
    status, _, content = server.ask("/v1/model")
    told = json.loads(content)
    assert status == 200 and told["name"] == "tiny" and told["architecture"] == "cgrseg_n"
    assert told["classes"][1] == {"id": 1, "name": "road", "color": [0, 200, 0]}
    assert told["sizes"]["pad_multiple"] == 32 and told["limits"]["pixels"] == 2**16


def test_health_readiness_metrics_and_the_interface_are_served(server: Client) -> None:
    assert server.ask("/health")[0] == server.ask("/ready")[0] == 200
    server.segment(encoded(draw(0)))
    text = server.ask("/metrics")[2].decode()
    assert 'cgrseg_requests_total{route="/v1/segment",status="200"}' in text
    assert "cgrseg_request_seconds_bucket" in text and "cgrseg_batch_photos_count" in text
    interface = json.loads(server.ask("/openapi.json")[2])
    assert {"/v1/segment", "/v1/model", "/health", "/ready", "/metrics"} == set(interface["paths"])
    assert "image/*" in interface["paths"]["/v1/segment"]["post"]["requestBody"]["content"]


def test_the_page_of_the_interface_loads_nothing_from_other_hosts(server: Client) -> None:
    status, _, page = server.ask("/docs")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.decode())
    assert status == 200 and len(addresses) == 3 and all(address.startswith("/") for address in addresses)
    assert [server.ask(address)[0] for address in addresses] == [200] * 3


# Refused requests.


def png_header(width: int, height: int) -> bytes:
    """A PNG of this size in its header, with a few bytes of compressed zeros."""

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


GOOD = encoded(draw(7))
JPEG = encoded(draw(7), "JPEG")
GIF_BOMB = b"GIF89a" + struct.pack("<HH", 65535, 65535) + GOOD[6:]
REFUSED: dict[str, tuple[bytes, dict[str, str], str, int]] = {
    "nothing": (b"", {}, "", 400),
    "too many bytes": (GOOD + bytes(2**18), {}, "", 413),
    "far too many bytes": (GOOD + bytes(2**19), {}, "", 413),
    "too many pixels": (encoded(np.zeros((300, 300, 3), np.uint8)), {}, "", 413),
    "decompression bomb, PNG": (png_header(60_000, 60_000), {}, "", 413),
    "decompression bomb, within Pillow's own limit": (png_header(9_000, 9_000), {}, "", 413),
    "decompression bomb, GIF": (GIF_BOMB, {}, "", 413),
    "endless side": (png_header(2**31 - 1, 1), {}, "", 413),
    "thin strip that padding makes large": (encoded(np.zeros((1, 2000, 3), np.uint8)), {}, "", 413),
    "short side that makes it large": (GOOD, {}, "?short_side=2000", 413),
    "no pixels": (png_header(0, 10), {}, "", 415),
    "text": (b"hello", {}, "", 415),
    "zeros": (bytes(1000), {}, "", 415),
    "PDF": (b"%PDF-1.7\n1 0 obj\n", {}, "", 415),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', {}, "", 415),
    "EPS, which Pillow would hand to a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, "", 415),
    "zip": (b"PK\x03\x04" + GOOD, {}, "", 415),
    "text that calls itself a picture": (b"<html>", {"content-type": "image/jpeg"}, "", 415),
    "JSON": (b"{}", {"content-type": "application/json"}, "", 415),
    "form of the other kind": (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, "", 415),
    "packed body": (GOOD, {"content-encoding": "gzip"}, "", 415),
    "header only": (GOOD[:40], {}, "", 415),
    "cut PNG": (GOOD[: len(GOOD) // 2], {}, "", 422),
    "cut JPEG": (JPEG[: len(JPEG) // 2], {}, "", 422),
    "GIF with a PNG inside": (b"GIF89a\x10\x00\x10\x00\x00\x00\x00" + GOOD, {}, "", 413),
    "form without boundary": (form(GOOD)[0], {"content-type": "multipart/form-data"}, "", 400),
    "form of two files": (form(GOOD, GOOD)[0], {"content-type": form()[1]}, "", 400),
    "form of no file": (form()[0], {"content-type": form()[1]}, "", 400),
    "broken form": (b"--xyz\r\nrubbish", {"content-type": form()[1]}, "", 400),
    "unknown output": (GOOD, {}, "?output=poem", 422),
    "negative side": (GOOD, {}, "?short_side=-1", 422),
    "mistyped parameter": (GOOD, {}, "?outptu=overlay", 422),
    "side in words": (GOOD, {}, "?short_side=huge", 422),
}


@pytest.mark.parametrize("what", REFUSED)
def test_invalid_requests_are_refused_in_one_line(what: str, server: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    body, headers, query, expected = REFUSED[what]
    if expected == 413:
        monkeypatch.setattr(batching, "read_photo_bytes", lambda *_, **__: pytest.fail("it was decoded"))
    status, got, content = server.ask(f"/v1/segment{query}", body, {"content-type": "image/png", **headers})
    assert status == expected, content
    detail = json.loads(content)["detail"]
    assert detail and "\n" not in detail and "Traceback" not in detail
    assert got["content-type"] == "application/json"


def test_a_refusal_for_its_size_names_the_largest_short_side_that_is_accepted(server: Client) -> None:
    photo = encoded(draw(3, (250, 200)))
    status, headers, content = server.segment(photo, "?short_side=0")
    side = int(headers["x-short-side"])
    assert status == 413 and f"send short_side={side} or less" in json.loads(content)["detail"]
    assert server.segment(photo, f"?short_side={side}")[0] == 200
    assert server.segment(photo, f"?short_side={side + 1}")[0] == 413
    strip = server.segment(encoded(np.zeros((1, 2000, 3), np.uint8)))
    assert "x-short-side" not in strip[1] and b"crop the photo" in strip[2]


def test_what_curl_sends_without_a_type_is_named_with_the_option_that_helps(server: Client) -> None:
    content = server.ask("/v1/segment", GOOD, {"content-type": "application/x-www-form-urlencoded"})[2]
    assert b"x-www-form-urlencoded" in content and b"-H 'Content-Type: image/jpeg'" in content


def test_a_stream_without_length_is_cut_at_the_limit(server: Client) -> None:
    pieces = (b"\x89PNG" + bytes(2**14) for _ in range(40))
    status, _, _ = server.ask("/v1/segment", pieces, {"content-type": "image/png"})  # in chunks
    assert status == 413
    assert server.segment(GOOD)[0] == 200


def test_unknown_paths_and_methods_are_not_found(server: Client) -> None:
    assert server.ask("/v1/other")[0] == server.ask("/v1/../etc/passwd")[0] == 404
    assert server.ask("/v1/segment")[0] == 405


def test_polyglots_are_read_as_images_or_refused(server: Client) -> None:
    for tail in (b"PK\x03\x04 zip", b"<script>alert(1)</script>", GOOD):
        status, headers, _ = server.segment(JPEG + tail)
        assert (status, headers["content-type"], headers["x-content-type-options"]) == (200, "image/png", "nosniff")
    assert server.segment(b"<script>" + JPEG)[0] == 415


def raw(server: Client, data: bytes, *, timeout: float = 20) -> bytes:
    """Send bytes as they are; what comes back until the other side closes, or goes silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        answer = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                answer += part
        except (TimeoutError, ConnectionError):
            pass
        return answer


POST = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nConnection: close\r\n"
MALFORMED = {
    "one long header": POST + b"A: " + b"a" * 200_000 + b"\r\n\r\n",
    "many headers": POST + b"".join(b"A%d: b\r\n" % i for i in range(20_000)) + b"\r\n",
    "negative length": POST + b"Content-Length: -5\r\n\r\n",
    "length in words": POST + b"Content-Length: five\r\n\r\n",
    "length beyond all numbers": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "line breaks in a header": POST + b"A: b\rc\x00d\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00" + bytes(range(256)),
    "long address": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "broken chunks": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_requests_get_a_4xx_and_the_next_one_a_result(what: str, server: Client) -> None:
    answer = raw(server, MALFORMED[what])
    assert re.match(rb"HTTP/1.1 4\d\d ", answer) or answer == b"", answer[:200]
    assert server.segment(GOOD)[0] == 200


def test_connections_of_slow_clients_are_closed(segmenter: Segmenter) -> None:
    with running(segmenter, read_seconds=0.3) as server:
        half = POST + b"Content-Length: 1000\r\n\r\nabc"
        assert raw(server, half).startswith(b"HTTP/1.1 408 ")
        for unfinished in (b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: x\r\n"):
            start = time.monotonic()
            assert raw(server, unfinished) == b"" and time.monotonic() - start < 15
        assert server.segment(GOOD)[0] == 200


def test_bodies_of_clients_that_left_are_not_held(segmenter: Segmenter) -> None:
    with running(segmenter, bytes=2**16) as server:
        for _ in range(20):  # more than may be held at once
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(POST + b"Content-Length: 60000\r\n\r\n" + bytes(50_000))
        server.until(lambda: server.segment(GOOD)[0] == 200)


# Keys, queues and timeouts.


def test_v1_requires_the_right_key(segmenter: Segmenter) -> None:
    with running(segmenter, key="geheim-ß") as server:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic geheim"}):
            status, got, _ = server.ask("/v1/segment", GOOD, {"content-type": "image/png", **headers})
            assert status == 401 and got["www-authenticate"] == "Bearer"
        assert server.ask("/v1/model")[0] == 401 and server.ask("/health")[0] == server.ask("/ready")[0] == 200
    with running(segmenter, key="secret") as server:
        assert server.segment(GOOD, authorization="Bearer secret")[0] == 200
        assert server.segment(GOOD, authorization="Bearer secret ")[0] == 200
        assert server.segment(GOOD, authorization="Bearer secre")[0] == 401


def test_a_full_queue_responds_503_with_retry_after_and_recovers(weights: Path) -> None:
    gated = Gated(weights)
    with running(gated, batch=1, queue=2) as server, ThreadPoolExecutor(8) as pool:
        places = BATCHES + 2
        asked = []
        for number in range(places):
            asked.append(pool.submit(server.segment, encoded(draw(number))))
            server.until(lambda number=number: server.waiting() >= number + 1 - BATCHES)  # type: ignore[misc]
        server.until(lambda: server.waiting() == 2)
        status, headers, _ = server.segment(GOOD)
        assert status == 503 and 1 <= int(headers["retry-after"]) <= 60
        assert server.ask("/ready")[0] == 503 and server.ask("/health")[0] == 200
        gated.gate.set()
        assert [future.result()[0] for future in asked] == [200] * places
        assert server.segment(GOOD)[0] == server.ask("/ready")[0] == 200


def test_a_photo_that_waits_too_long_gets_504_and_leaves_the_queue(weights: Path) -> None:
    gated = Gated(weights)
    with running(gated, batch=1, seconds=0.3) as server, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.segment, GOOD) for _ in range(6)]
        assert [future.result()[0] for future in asked] == [504] * 6
        assert server.waiting() == 0
        gated.gate.set()
        server.until(lambda: server.segment(GOOD)[0] == 200)


def test_photos_of_one_padded_size_go_through_the_network_together(weights: Path) -> None:
    groups: list[list[tuple[int, ...]]] = []

    class Noting(Gated):
        def run(self, group: list[Prepared]) -> Any:
            groups.append([tuple(item.image.shape) for item in group])
            return super().run(group)

    gated = Noting(weights)
    with running(gated, batch=4) as server, ThreadPoolExecutor(16) as pool:
        sizes = [(48, 40), (90, 30)] * 7
        asked = [pool.submit(server.segment, encoded(draw(i, size))) for i, size in enumerate(sizes)]
        server.until(lambda: server.waiting() >= len(sizes) - 4 * BATCHES and len(groups) > 0)
        gated.gate.set()
        assert {future.result()[0] for future in asked} == {200}
    assert all(len(set(group)) == 1 and len(group) <= 4 for group in groups) and sum(map(len, groups)) == 14
    assert max(map(len, groups)) > 1


def test_on_a_cpu_as_many_batches_as_threads_are_in_the_network_and_one_alone_has_all(weights: Path) -> None:
    threads: list[int] = []

    class Meeting(Segmenter):
        def run(self, group: list[Prepared]) -> Any:
            threads.append(torch.get_num_threads())
            meeting.wait(60)
            return super().run(group)

    torch.set_num_threads(2)
    try:
        with running(Meeting(weights), batch=1) as server, ThreadPoolExecutor(8) as pool:
            meeting = threading.Barrier(1)
            assert server.segment(GOOD)[0] == 200 and threads == [2]
            meeting = threading.Barrier(2)  # nobody passes it alone
            asked = [pool.submit(server.segment, encoded(draw(number))) for number in range(6)]
            assert [future.result()[0] for future in asked] == [200] * 6 and len(threads) == 7 and 1 in threads[1:]
    finally:
        torch.set_num_threads(1)


def test_a_damaged_photo_does_not_affect_the_others_of_its_batch(weights: Path) -> None:
    gated = Gated(weights)
    cut = REFUSED["cut PNG"][0]
    with running(gated) as server, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(server.segment, cut if i % 3 == 0 else GOOD) for i in range(12)]
        gated.gate.set()
        assert [future.result()[0] for future in asked] == [422 if i % 3 == 0 else 200 for i in range(12)]


def test_if_memory_runs_out_photos_are_labelled_one_by_one(weights: Path) -> None:
    class Small(Gated):
        def run(self, group: list[Prepared]) -> Any:
            if len(group) > 1 or group[0].photo.shape[0] > 90:
                raise MemoryError("need more memory than there is: lower short_side or batch")
            return super().run(group)

    small = Small(weights)
    with running(small, batch=4) as server, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(server.segment, encoded(draw(i, (40, 94 if i == 5 else 80)))) for i in range(12)]
        small.gate.set()
        assert [future.result()[0] for future in asked] == [413 if i == 5 else 200 for i in range(12)]


def test_a_bug_is_a_500_without_details_and_the_server_continues(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Segmenter):
        def run(self, group: Any) -> Any:
            raise RuntimeError("an inner secret")

    with running(Faulty(weights)) as server:
        for _ in range(5):  # more than there are places for batches
            status, _, content = server.segment(GOOD)
            assert status == 500 and b"secret" not in content
        assert server.ask("/ready")[0] == 200


def test_accepted_requests_are_finished_before_shutdown(weights: Path) -> None:
    gated = Gated(weights)
    with running(gated, batch=1) as server, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.segment, encoded(draw(number))) for number in range(6)]
        server.until(lambda: server.waiting() == 6 - BATCHES)
        server.uvicorn.should_exit = True
        server.until(lambda: refuses(server.port))
        gated.gate.set()
        assert [future.result()[0] for future in asked] == [200] * 6


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


# Mutated images and many requests.


def mutated(number: int) -> bytes:
    """A valid image of some format with a few bytes changed, removed, repeated or inserted."""
    chance = random.Random(number)
    kind = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")[number % 6]
    data = bytearray(encoded(draw(number % 12), kind))
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place, length = chance.randrange(len(data)), chance.randrange(1, 30)
        match chance.randrange(5):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                data[place % 64] = chance.choice((0, 1, 127, 128, 255))
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                data[place:place] = chance.randbytes(length)
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_mutated_images_get_a_result_or_a_4xx(server: Client, count: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(answer[0] for answer in pool.map(lambda i: server.segment(mutated(i)), range(count)))
    assert set(statuses) <= {200, 400, 413, 415, 422}, statuses
    assert sum(statuses.values()) == count and statuses[422] > 0 and statuses[200] > 0
    assert server.segment(GOOD)[0] == 200
    print(f"\n{count} mutations: {dict(statuses)}")


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_no_result_is_lost_or_of_another_photo(server: Client, segmenter: Segmenter, count: int) -> None:
    sizes = [(32, 32), (30, 24), (64, 32)]
    photos = [draw(number, sizes[number % 3]) for number in range(count)]
    expected = [result.labels for result in segmenter(photos, batch=16)]
    assert len({labels.tobytes() for labels in expected}) > 0.9 * count  # otherwise a mix-up would not show
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(server.segment, map(encoded, photos)))
    assert [answer[0] for answer in answers] == [200] * count
    for number, answer in enumerate(answers):
        labels = labels_in(answer[2])
        # In a batch the network rounds differently: a few pixels may change.
        assert labels.shape == expected[number].shape and (labels == expected[number]).mean() > 0.98, number


# Files that are expensive to read, and clients that take more than their share.


def segment_of(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def gif_with_comment(size: int) -> bytes:
    gif = encoded(draw(7), "GIF")
    table = 13 + 3 * 2 ** (gif[10] % 8 + 1)
    return gif[:table] + b"!\xfe" + (b"\xff" + bytes(255)) * (size // 256) + b"\0" + gif[table:]


def tiff_with_shared_tags(tags: int, size: int) -> bytes:
    entries = b"".join(struct.pack("<HHII", 40_000 + tag, 7, size, 8) for tag in range(tags))
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + struct.pack("<H", tags) + entries + bytes(4)


EXIF = segment_of(0xE1, b"Exif\0\0" + bytes(64_000))
TINY_EXIF = segment_of(0xE1, b"Exif\0\0M")
COSTLY: dict[str, tuple[bytes, int]] = {
    "many small EXIF segments after large ones": (JPEG[:2] + EXIF * 200 + TINY_EXIF * 16_000 + JPEG[2:], 200),
    "more EXIF segments than any encoder writes": (JPEG[:2] + TINY_EXIF * 30_000 + JPEG[2:], 422),
    "Photoshop segments of many blocks": (
        JPEG[:2] + segment_of(0xED, b"Photoshop 3.0\0" + b"8BIM" * 16_000) + JPEG[2:],
        200,
    ),
    "padding between segments": (JPEG[:2] + b"\xff" * 4_000_000 + JPEG[2:], 200),
    "long GIF comment": (gif_with_comment(8_000_000), 200),
    "GIF comment of tiny blocks": (gif_with_comment(256)[:-1] + b"!\xfe" + b"\1a" * 300_000, 200),
    "TIFF tags that share their data": (tiff_with_shared_tags(1000, 2_000_000), 422),
    "TIFF with too many tags": (tiff_with_shared_tags(5000, 1), 422),
    "PNG of too many chunks": (GOOD[:33] + chunk(b"teSt", b"") * 20_000 + GOOD[33:], 422),
    "BMP in run lengths": (b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 3000, 3000, 1, 8, 1) + bytes(2000), 422),
}


@pytest.mark.parametrize("what", COSTLY)
def test_a_costly_file_delays_nobody(what: str, segmenter: Segmenter) -> None:
    body, expected = COSTLY[what]
    with running(segmenter, seconds=10) as server, ThreadPoolExecutor(2) as pool:
        start = time.monotonic()
        costly = pool.submit(server.segment, body)
        assert server.segment(GOOD)[0] == 200
        status, _, content = costly.result()
        assert status == expected and time.monotonic() - start < 10, content


def test_orientation_and_transparency_survive_the_removal_of_metadata(segmenter: Segmenter) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(draw(2, (48, 32)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
        assert photo_size(clean_image(data), kind) == (48, 32)
        np.testing.assert_array_equal(read_photo_bytes(clean_image(data), kind), read_photo_bytes(data, kind))
    for orientation, size in ((5, (48, 32)), (8, (48, 32)), (9, (32, 48)), (1, (32, 48))):  # 9 has no meaning
        exif[0x0112] = orientation
        data = encoded(draw(2, (48, 32)), "JPEG", exif=exif)
        assert photo_size(data, "JPEG") == size == read_photo_bytes(data, "JPEG").shape[:2]
    gif = Image.fromarray(draw(1)[:, :, 0] // 64)
    buffer = io.BytesIO()
    gif.save(buffer, "GIF", transparency=1, comment=b"some text")
    cleaned = clean_image(buffer.getvalue())
    assert b"some text" not in cleaned
    np.testing.assert_array_equal(read_photo_bytes(cleaned, "GIF"), read_photo_bytes(buffer.getvalue(), "GIF"))


def test_large_text_and_colour_profiles_are_no_damage(server: Client, segmenter: Segmenter) -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000)))
    profile = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000)))
    status, _, mask = server.segment(GOOD[:33] + profile + text + GOOD[33:])
    assert status == 200
    np.testing.assert_array_equal(labels_in(mask), segmenter(draw(7)).labels)


def test_a_jpeg_of_many_scans_is_refused(server: Client) -> None:
    data = encoded(draw(7), "JPEG", progressive=True)
    assert server.segment(data)[0] == 200
    last = data.rindex(b"\xff\xda")
    status, _, content = server.segment(data[:-2] + data[last:-2] * 100 + data[-2:])
    assert status == 422 and b"more than 100 scans" in content


def test_readiness_notices_threads_that_are_stuck(weights: Path) -> None:
    gated = Gated(weights)
    with running(gated, seconds=0.5) as server:
        assert server.segment(GOOD)[0] == 504
        server.until(lambda: server.ask("/ready")[0] == 503)
        assert server.ask("/health")[0] == 200
        gated.gate.set()
        server.until(lambda: server.ask("/ready")[0] == 200)


def test_photos_whose_clients_left_are_not_labelled(weights: Path) -> None:
    class Counting(Gated):
        passes = 0

        def run(self, group: Any) -> Any:
            self.passes += 1
            return super().run(group)

    counting = Counting(weights)
    with running(counting, batch=1) as server:
        length = b"Content-Length: %d\r\n\r\n" % len(GOOD)
        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
        for connection in connections:
            connection.sendall(POST + length + GOOD)
        server.until(lambda: server.waiting() == len(connections) - BATCHES)
        for connection in connections:
            connection.close()
        server.until(lambda: server.waiting() == 0)
        counting.gate.set()
        assert server.segment(GOOD)[0] == 200
    assert counting.passes == 2  # the one that had begun, and that of the last request


def test_the_default_size_of_a_pass_follows_from_the_timeout(weights: Path) -> None:
    class Slow(Segmenter):
        def run(self, group: list[Prepared]) -> Any:
            time.sleep(0.2 * group[0].image[0].numel() / 512**2)
            return super().run(group)

    with running(Slow(weights), network_pixels=0, seconds=2) as server:
        limit = json.loads(server.ask("/v1/model")[2])["limits"]["network_pixels"]
        assert 2**16 < limit < 2**19  # 2 s are enough for ten passes of 512 x 512
        status, _, content = server.segment(GOOD, "?short_side=2048")
        assert status == 413 and str(limit).encode() in content
        assert server.segment(GOOD)[0] == 200


def test_one_address_cannot_hold_all_memory_for_bodies(segmenter: Segmenter) -> None:
    with running(segmenter, bytes=2**16) as server:
        withheld = POST + b"Content-Length: 65000\r\n\r\n" + bytes(64_000)
        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(9)]
        for connection in connections:
            connection.sendall(withheld)
        server.until(lambda: server.segment(GOOD + bytes(60_000))[0] == 503)
        other = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60, source_address=("127.0.0.2", 0))
        other.request("POST", "/v1/segment", GOOD + bytes(60_000), {"content-type": "image/png"})
        assert other.getresponse().status == 200
        other.close()
        for connection in connections:
            connection.close()


def test_too_many_pixels_are_compared_with_the_server_s_limit(server: Client) -> None:
    for body in (png_header(60_000, 60_000), png_header(9_000, 9_000)):
        assert str(2**16).encode() in server.segment(body)[2]


def test_head_requests_are_answered(server: Client) -> None:
    for path in ("/health", "/ready", "/metrics", "/v1/model"):
        status, _, content = server.ask(path, method="HEAD")
        assert (status, content) == (200, b"")


STUCK = """
import socket, sys, time
from cgrseg.inference.segmenter import Segmenter
from cgrseg.server.app import ServerConfig, _run
from cgrseg.server.uploads import Limits

class Stuck(Segmenter):
    def run(self, group):
        print("running", flush=True)
        time.sleep(600)

listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
print("listening", flush=True)
stuck = Stuck(sys.argv[1])
limits = Limits(seconds=1, read_seconds=1, network_pixels=2**20)
_run({"x": lambda _: stuck}, ServerConfig(limits=limits), listener)
"""


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_stuck_thread_does_not_keep_the_server_from_ending(signals: list[int], weights: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [sys.executable, "-c", STUCK, str(weights), str(port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_for(lambda: "listening" in log.read_text())
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(Client(port, None).segment, GOOD)  # type: ignore[arg-type]
                wait_for(lambda: "running" in log.read_text())
                for number in signals:
                    process.send_signal(number)
                    time.sleep(0.5)
                assert process.wait(30) == 1
                assert asked.exception() is not None or asked.result()[0] == 504
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()


def wait_for(holds: Callable[[], bool]) -> None:
    Client(0, None).until(holds)  # type: ignore[arg-type]


SUPERVISED = """
import time
from functools import partial
from cgrseg.server.app import ServerConfig, _supervise, log_to_stderr
from cgrseg.server.uploads import Limits

log_to_stderr()
_supervise(partial(time.sleep, 600), ServerConfig(workers=2, limits=Limits(seconds=1, read_seconds=1)))
"""


def test_a_worker_that_was_stopped_and_killed_is_replaced_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen([sys.executable, "-c", SUPERVISED], stderr=output) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def workers() -> list[int]:
            commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.read_text().split()}
            return [pid for pid, command in commands.items() if b"spawn_main" in command]

        try:
            wait_for(lambda: len(workers()) == 2)
            first = workers()[0]
            os.kill(first, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(first, signal.SIGKILL)
            start = time.monotonic()
            wait_for(lambda: len(workers()) == 2 and first not in workers())
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0 and time.monotonic() - start < 20
        finally:
            process.kill()
    assert '"a worker died"' in log.read_text()


# The command.


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_sigterm_finishes_requests_and_the_log_has_no_content(weights: Path, tmp_path: Path, workers: int) -> None:
    key = tmp_path / "key"
    key.write_text("open sesame\n")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "cgrseg", "serve", "--weights", str(weights), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--workers", str(workers), "--key-file", str(key)], stderr=stderr, env=environment
        )
    try:
        for _ in range(1200):
            if (match := re.search(r'"port": (\d+)', log.read_text())) or process.poll() is not None:
                break
            time.sleep(0.1)
        assert match is not None, log.read_text()
        server = Client(int(match[1]), None)  # type: ignore[arg-type]
        body, kind = form(GOOD, field="private-name")
        for _ in range(10 * workers):
            status, headers, _ = server.segment(body, content_type=kind, authorization="Bearer open sesame")
            assert status == 200
        assert (
            f'cgrseg_requests_total{{route="/v1/segment",status="200"}} {10 * workers}.0'
            in server.ask("/metrics")[2].decode()
        )
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    (line,) = [line for line in lines if line.get("id") == headers["x-request-id"]]
    assert line["status"] == 200 and line["route"] == "/v1/segment" and line["milliseconds"] > 0
    assert "private-name" not in text and "a.png" not in text and "sesame" not in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--weights", "w", "--workers", "0"], "--workers is 0"),
        (["--weights", "w", "--port", "99999"], "--port is 99999"),
        (["--weights", "w", "--key-file", "nowhere.key"], "nowhere.key"),
        (["--weights", "w", "--key-file", "umlaut.key"], "umlaut.key has letters outside of ASCII"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("umlaut.key").write_text("schlüssel", encoding="utf-8")
    assert main(["serve", *arguments]) == 2
    text = capsys.readouterr().err
    assert complaint in text and text.count("\n") == 1

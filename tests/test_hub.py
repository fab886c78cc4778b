"""Weights go to the hub with their card and come back the same: against a hub that runs inside the test."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants

import cgrseg
from cgrseg.cli.main import main
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact
from cgrseg.weights.hub import HUB_FILE

# The hub's client uploads in a way that its own HTTP library calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")

NAMES = ("road", "sky | clouds", "tree")
CARD = {
    "data": "Streets of Gent",
    "recipe": {"data": "gent", "model": "cgrseg_n", "steps": 10},
    "split": "val",
    "miou": 61.5,
    "accuracy": 80.25,
    "class_iou": {"road": 90.0, "sky | clouds": 70.0, "tree": 24.5},
    "date": "2026-11-25",
}
COMMIT = "c" * 40


class FakeHub(ThreadingHTTPServer):
    """What huggingface_hub asks of the hub: make a repository, take files in one commit, hand them out."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.refuses = False
        self.damages = False


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *arguments: object) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        hub, path, body = self.server, self.path.partition("?")[0], self.body()
        hub.seen.append(f"POST {path}")
        if hub.refuses:
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            hub.seen.append("private" if json.loads(body).get("visibility") == "private" else "public")
            self.answer({"url": f"{hub.address}/me/street"})
        elif path == "/api/validate-yaml":
            self.answer({"warnings": [], "errors": []})
        elif path == "/api/models/me/street/preupload/main":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in files}
            self.answer({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})
        elif path == "/me/street.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            uploads = [{"upload": {"href": f"{hub.address}/put/{each['oid']}"}} for each in objects]
            self.answer(
                {"transfer": "basic", "objects": [o | {"actions": u} for o, u in zip(objects, uploads, strict=True)]}
            )
        elif path == "/api/models/me/street/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    hub.files[line["value"]["path"]] = hub.uploads[line["value"]["oid"]]
            self.answer({"commitUrl": f"{hub.address}/me/street/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({"error": path}, 404)

    def do_PUT(self) -> None:
        self.server.uploads[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_GET(self) -> None:
        hub, name = self.server, self.path.rpartition("/")[2]
        hub.seen.append(f"{self.command} {self.path}")
        data = hub.files.get(name) if self.path.startswith("/me/street/resolve/") else None
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:-4] + b"\xff\xfe\xfd\xfc" if hub.damages else data)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    server = FakeHub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "street.safetensors"
    labels = LabelSpace(names=NAMES, colors=((128, 64, 128), (70, 130, 180), (0, 100, 0)))
    artifact.save(build("cgrseg_n", num_classes=3), path, labels=labels, card=CARD, half=True)
    return path


def push(weights: Path, *options: str) -> int:
    return main(["push", "me/street", "--weights", str(weights), "--terms", "CC BY 4.0, city of Gent", *options])


def test_pushed_weights_load_from_the_hub_and_then_from_the_cache(
    hub: FakeHub, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(weights, "--private") == 0
    assert "others use it as --weights hf:me/street" in capsys.readouterr().out
    assert set(hub.files) == {HUB_FILE, "README.md", "config.json"} and "private" in hub.seen
    assert hub.files[HUB_FILE] == weights.read_bytes()

    model = cgrseg.load("hf:me/street", device="cpu")
    for key, tensor in cgrseg.load(weights, device="cpu").state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    assert model.labels.names == NAMES and model.card == CARD

    hub.seen.clear()
    cgrseg.Segmenter("hf:me/street", device="cpu")
    assert not [line for line in hub.seen if line.startswith("GET")], "it was downloaded twice"

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.seen.clear()
    assert cgrseg.load("hf:me/street", device="cpu").card == CARD
    assert hub.seen == []


def test_a_damaged_download_is_refused_and_forgotten(hub: FakeHub, weights: Path) -> None:
    push(weights)
    hub.damages = True
    with pytest.raises(OSError, match=r"model\.safetensors of me/street is damaged \(its hash differs\)"):
        cgrseg.load("hf:me/street", device="cpu")
    hub.damages = False
    assert cgrseg.load("hf:me/street", device="cpu").labels.names == NAMES


def test_damage_in_the_cache_is_found(hub: FakeHub, weights: Path, tmp_path: Path) -> None:
    push(weights)
    cgrseg.load("hf:me/street", device="cpu")
    (blob,) = (path for path in (tmp_path / "cache").rglob("blobs/*") if path.is_file())
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    with pytest.raises(OSError, match="is damaged"):
        cgrseg.load("hf:me/street", device="cpu")
    assert cgrseg.load("hf:me/street", device="cpu").card == CARD


def test_the_card_tells_data_recipe_scores_limits_terms_and_citation(weights: Path, tmp_path: Path) -> None:
    assert push(weights, "--license", "cc-by-4.0", "--out", str(tmp_path / "page")) == 0
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == ["README.md", "config.json", HUB_FILE]
    assert (tmp_path / "page" / HUB_FILE).read_bytes() == weights.read_bytes()
    _, front, text = (tmp_path / "page" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    table = yaml.safe_load(front)
    assert (table["license"], table["pipeline_tag"], table["library_name"]) == (
        "cc-by-4.0",
        "image-segmentation",
        "cgrseg",
    )
    (result,) = table["model-index"][0]["results"]
    assert result["dataset"] == {"type": "streets-of-gent", "name": "Streets of Gent", "split": "val"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"mean_iou": 61.5, "accuracy": 80.25}
    for words in (
        "Terms of the data: CC BY 4.0, city of Gent",
        "steps: 10",
        "| mIoU, % | 61.5 |",
        r"| 1 | sky \| clouds | #4682b4 | 70.0 |",
        "Weak classes (below 30 % IoU): tree.",
        "Context-Guided Spatial Feature Reconstruction",
        "cgrseg.Segmenter('hf:me/street')",
    ):
        assert words in text, words
    config = json.loads((tmp_path / "page" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "road", "1": "sky | clouds", "2": "tree"}
    assert (config["name"], config["num_classes"], config["preprocessing"]["pad_multiple"]) == ("cgrseg_n", 3, 32)


def test_an_empty_card_says_that_nothing_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    artifact.save(build("cgrseg_n", num_classes=2), path)
    assert main(["push", "me/bare", "--weights", str(path), "--terms", "public domain", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "None recorded." in text and "Not recorded." in text and "model-index" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["street", "--terms", "x"], "'street' is not a repository of the hub: write USER/NAME"),
        (["me/street"], "does not state the terms of its training data: add --terms"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(
    arguments: list[str], words: str, weights: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", *arguments, "--weights", str(weights)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and hub.seen == []


def test_a_refused_push_says_how_to_log_in(hub: FakeHub, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.refuses = True
    assert push(weights) == 2
    assert "me/street cannot be written on the Hugging Face hub (status 401): log in with" in capsys.readouterr().err


def test_offline_a_push_goes_nowhere_and_says_so(
    hub: FakeHub, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(weights) == 2
    assert "write a folder with --out" in capsys.readouterr().err and hub.seen == []

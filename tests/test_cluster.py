"""`cgrseg predict --engine ray`: the same masks from all sources; nothing is lost when a worker is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

from cgrseg.cli.main import main
from cgrseg.cluster import label_on_cluster
from cgrseg.cluster.sources import Storage, members, photo_table, read_rows
from cgrseg.cluster.worker import BlockLabeler
from cgrseg.inference.segmenter import Segmenter
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]  # warnings of Ray itself


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build("cgrseg_n", num_classes=3)
    torch.nn.init.normal_(model.head.classifier.weight)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    artifact.save(model, path, labels=LabelSpace.numbered(3))
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=1, object_store_memory=2**27, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def photo(number: int, size: tuple[int, int] = (48, 40)) -> bytes:
    blocks = np.random.default_rng(number).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def contents(folder: Path, *, below: str = "**/*.png") -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob(below)}


def manifest(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for part in (out / "manifest").glob("*.jsonl") for line in part.read_text().splitlines()]


def table(out: Path) -> list[dict[str, Any]]:
    rows = [row for part in (out / "table").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    return sorted(rows, key=lambda row: row["name"])


def make_labeller(weights: Path, out: Path, **options: Any) -> BlockLabeler:
    settings = {"kinds": ("parquet",), "batch": 2, "short_side": None, "device": "cpu", "done": np.array([], np.uint64)}
    return BlockLabeler(weights=weights.read_bytes(), out=str(out), **{**settings, **options})


def test_predict_on_ray_writes_the_masks_of_predict_and_resumes(
    tmp_path: Path, weights: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("a.png", "b.png", "x/c.png", "x/c.jpg")):
        write(tmp_path / "in" / name, photo(number, (48 + 8 * number, 40)))
    write(tmp_path / "in" / "broken.png", photo(0)[:60])
    common = [str(tmp_path / "in"), "--weights", str(weights), "--device", "cpu", "--save", "mask,confidence"]
    assert main(["predict", *common, "--out", str(tmp_path / "here")]) == 1
    on_ray = [*common, "--out", str(tmp_path / "there"), "--engine", "ray", "--workers", "1"]
    assert main(["predict", *on_ray]) == 1
    assert "broken.png is damaged or incomplete" in capsys.readouterr().err
    expected = contents(tmp_path / "here")
    assert len(expected) == 8 and contents(tmp_path / "there") == expected
    errors = {row["name"]: row["error"] for row in manifest(tmp_path / "there")}
    assert len(errors) == 5 and [name for name, error in errors.items() if error] == ["broken"]

    assert main(["predict", *on_ray]) == 2  # not over an earlier run, unless told to go on
    write(tmp_path / "in" / "new.png", photo(9))
    (tmp_path / "there" / "a.mask.png").unlink()  # would come back if its photo were labelled again
    capsys.readouterr()
    assert main(["predict", *on_ray, "--resume"]) == 0
    assert "1 image " in capsys.readouterr().out
    assert set(contents(tmp_path / "there")) == {*expected, "new.mask.png", "new.confidence.png"} - {"a.mask.png"}


def test_a_killed_worker_loses_nothing_row_by_row(tmp_path: Path, weights: Path, cluster: None) -> None:
    count, parts = 48, 6
    for part in range(parts):
        rows = [{"name": f"{n:03}.png", "bytes": photo(n)} for n in range(part, count, parts)]
        rows[0]["bytes"] = rows[0]["bytes"][:50]
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / f"{part}.parquet")
    killed: list[int] = []

    def kill_one(_: int) -> None:
        """Once the first block is done: kill whoever is at work on the next."""
        if not killed:
            killed.append(pid := labeller_pid())
            os.kill(pid, signal.SIGKILL)

    options: dict[str, Any] = {
        "weights": str(weights),
        "kinds": ("parquet",),
        "workers": 2,
        "device": "cpu",
    }  # all cores
    disturbed = label_on_cluster([str(tmp_path / "in")], out=str(tmp_path / "a"), progress=kill_one, **options)
    assert killed and disturbed.photos == count - parts and disturbed.failed == parts
    undisturbed = make_labeller(weights, tmp_path / "b", batch=1)
    for part in sorted((tmp_path / "in").iterdir()):
        undisturbed(pq.read_table(part))
    rows, expected = table(tmp_path / "a"), table(tmp_path / "b")
    assert len(rows) == len({row["name"] for row in rows}) == count
    for row, other in zip(rows, expected, strict=True):
        assert row == other
    assert sum(row["error"] is not None for row in rows) == parts


def labeller_pid() -> int:
    """The process that Ray runs our `BlockLabeler` in, by the title that Ray gives it."""
    for _ in range(1000):
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = entry.read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"BlockLabeler" in title:
                return int(entry.parent.name)
        time.sleep(0.01)
    raise AssertionError("no process of a BlockLabeler is there")


def test_a_folder_called_manifest_can_be_labelled_and_resumed(tmp_path: Path, weights: Path, cluster: None) -> None:
    for name in ("manifest/a.png", "manifest/part-0.png", "table/b.png"):
        write(tmp_path / "in" / name, photo(0))
    options: dict[str, Any] = {"weights": str(weights), "out": str(tmp_path / "out"), "workers": 1, "device": "cpu"}
    assert label_on_cluster([str(tmp_path / "in")], **options).photos == 3
    write(tmp_path / "in" / "manifest" / "c.png", photo(1))
    summary = label_on_cluster([str(tmp_path / "in")], **options, resume=True)
    assert (summary.photos, summary.there) == (1, 3)
    assert (tmp_path / "out" / "manifest" / "c.mask.png").is_file()


def test_a_table_row_holds_mask_shares_and_confidence(tmp_path: Path, weights: Path) -> None:
    label = make_labeller(weights, tmp_path / "out")
    outcome = label(pa.table({"name": ["a", "../b", "c"], "bytes": [photo(1), photo(2), b"no photo"]}))
    assert [error is None for error in outcome.column("error").to_pylist()] == [True, False, False]
    good, *bad = sorted(table(tmp_path / "out"), key=lambda row: row["error"] is not None)
    result = Segmenter(weights, device="cpu")(Image.open(io.BytesIO(photo(1))))
    with Image.open(io.BytesIO(good["mask"])) as mask:
        np.testing.assert_array_equal(np.asarray(mask), result.labels)
    assert (good["height"], good["width"], dict(good["shares"])) == (40, 48, result.areas())
    assert good["confidence"] == pytest.approx(result.confidence().mean(), abs=1e-4)
    assert all(row["mask"] is None and row["error"] for row in bad) and "without .." in str(bad)


def test_a_block_done_again_replaces_itself(tmp_path: Path, weights: Path) -> None:
    block = pa.table({"name": ["a", "b"], "bytes": [photo(1), photo(2)]})
    for _ in range(2):
        make_labeller(weights, tmp_path)(block)
    assert len(list((tmp_path / "table").iterdir())) == 1 and len(manifest(tmp_path)) == 2


DYING = """
import os, signal, sys
import numpy as np, pyarrow.parquet as pq
from cgrseg.cluster.worker import BlockLabeler

class Dying(BlockLabeler):
    def _prepare(self, row):
        if row["name"] == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._prepare(row)

weights, block, out = sys.argv[1:]
label = Dying(weights=open(weights, "rb").read(), out=out, kinds=("parquet",), batch=1, short_side=None, device="cpu",
              done=np.array([], np.uint64))
label(pq.read_table(block))
"""


def test_a_photo_that_kills_its_workers_becomes_a_row_with_an_error(tmp_path: Path, weights: Path) -> None:
    names = ["a", "deadly", "z"]
    block, out = tmp_path / "block.parquet", tmp_path / "out"
    pq.write_table(pa.table({"name": names, "bytes": [photo(number) for number in range(3)]}), block)
    command = [sys.executable, "-c", DYING, str(weights), str(block), str(out)]
    ends = [subprocess.run(command, check=False).returncode for _ in range(4)]
    assert ends == [-signal.SIGKILL] * 3 + [0]  # once in company, twice alone
    a, deadly, z = table(out)
    assert a["error"] is None and z["error"] is None and a["mask"] and z["mask"]
    assert "deadly: 2 workers died on it" in deadly["error"]
    assert not [path for path in (out / ".attempts").iterdir()]


def test_tars_give_their_photos_under_names_of_their_own(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for name, content in (("x/1.png", photo(1)), ("x/1.json", b"{}"), ("2.JPG", photo(2))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    rows = list(members({"file": str(tmp_path / "shard-0.tar")}))
    assert rows == [{"name": "shard-0/x/1.png", "bytes": photo(1)}, {"name": "shard-0/2.JPG", "bytes": photo(2)}]


def test_sources_become_rows(tmp_path: Path, cluster: None) -> None:
    out = str(tmp_path / "out")
    paths = [write(tmp_path / "in" / f"{n}.png", photo(n)) for n in range(5)]
    expected = {(str(n), str(paths[n])) for n in range(5)}
    for source in (str(tmp_path / "in"), str(tmp_path / "in" / "*.png")):
        rows = read_rows([source], out=out, rows=2).take_all()
        assert {(row["name"], row["path"]) for row in rows} == expected
    by_url = photo_table([f"file://{tmp_path}/in"], out=out).to_pylist()
    assert [row["name"] for row in by_url] == [str(n) for n in range(5)]
    assert Storage(by_url[3]["path"]).read() == photo(3)
    pq.write_table(pa.table({"path": [str(path) for path in paths], "more": range(5)}), tmp_path / "list.parquet")
    rows = read_rows([str(tmp_path / "list.parquet")], out=out).take_all()
    assert [row["path"] for row in rows] == [str(path) for path in paths] and all(row["name"][0] != "/" for row in rows)


def test_a_pipe_in_a_table_of_paths_is_an_error_and_never_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(OSError, match=r"a\.jpg is not a regular file: name a file"):
        Storage(str(tmp_path / "a.jpg")).read()


def test_what_is_left_out_of_the_sources_is_said_for_folders_and_urls(tmp_path: Path) -> None:
    for name in ("a.png", "b.heic", "c.txt"):
        write(tmp_path / "in" / name, photo(1))
    for source in (str(tmp_path / "in"), f"file://{tmp_path}/in"):
        lines: list[str] = []
        photo_table([source], out=str(tmp_path / "out"), on_skipped=lines.append)
        (line,) = lines
        assert line.startswith(f"{source}: left out ") and ".heic (1): b.heic" in line and ".txt (1)" in line


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a.png", "b.tar"], "mix photos, tar"),
        (["nowhere.parquet"], "nowhere.parquet does not exist"),
        (["nowhere"], "nowhere is not there"),
        (["clip.mp4"], "is a video"),
        (["bad.parquet"], "it needs path, or name and bytes"),
    ],
)
def test_sources_that_make_no_rows_say_why(tmp_path: Path, names: list[str], complaint: str) -> None:
    for name in ("a.png", "b.tar", "clip.mp4"):
        write(tmp_path / name, b"")
    pq.write_table(pa.table({"other": [1]}), tmp_path / "bad.parquet")
    with pytest.raises((ValueError, OSError), match=complaint):
        read_rows([str(tmp_path / name) for name in names], out=str(tmp_path / "out"))


def test_urls_name_every_file_and_no_output(tmp_path: Path) -> None:
    names = {"a b.png": 1, "a%20b.png": 2, "c#d?e.png": 3}
    for name, seed in names.items():
        write(tmp_path / "in" / name, photo(seed))
    write(tmp_path / "in" / "out" / "x.mask.png", photo(4))
    found = photo_table([f"file://{tmp_path}/in"], out=f"file://{tmp_path}/in/out").to_pylist()
    assert {row["name"]: Storage(row["path"]).read() for row in found} == {
        name.removesuffix(".png"): photo(seed) for name, seed in names.items()
    }


def test_any_fsspec_place_can_be_written_to_and_read() -> None:
    storage = Storage("memory://bucket/run")
    storage.write("manifest/a.jsonl", b"1")
    storage.write("manifest/a.jsonl", b"2")
    assert list(storage.names("manifest")) == ["manifest/a.jsonl"] and storage.read("manifest/a.jsonl") == b"2"
    assert list(storage.names("other")) == []
    with pytest.raises(ValueError, match="neither pyarrow nor fsspec"):
        Storage("nonsense://x")


def test_flags_of_the_cluster_need_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["predict", str(tmp_path), "--weights", "w", "--out", str(tmp_path / "o")]
    assert main([*common, "--workers", "2"]) == 2 and "belongs to --engine ray" in capsys.readouterr().err
    assert main([*common, "--save", "parquet"]) == 2 and "'parquet' is not an output" in capsys.readouterr().err
    assert main([*common, "--engine", "ray", "--workers", "0"]) == 2 and "--workers is 0" in capsys.readouterr().err
    exported = write(tmp_path / "model.onnx", b"")
    assert main([*common, "--engine", "ray", "--weights", str(exported)]) == 2
    assert "is an exported file: --engine ray takes weights files" in capsys.readouterr().err

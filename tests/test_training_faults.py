"""What goes wrong in a training is one line that names the cure, and what changed since the last time is said."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cgrseg
from cgrseg._progress import progress_bar
from cgrseg.cli.main import main
from cgrseg.data.listing import open_dataset
from cgrseg.training import loading, loop, pictures, progress, scoring
from cgrseg.training.checkpoint import RunFolder
from cgrseg.training.config import TrainConfig
from cgrseg.training.fingerprint import changes, fingerprint
from cgrseg.training.pictures import score_limits
from cgrseg.training.setup import Data

SMALL = [
    "--model=cgrseg_n", "--batch=2", "--augment.crop=64", "--augment.resize_to=null", "--precision=fp32",
    "--log_every=1",
]  # fmt: skip
BATCH_BYTES = 2 * 64 * 64 * 14
# `cgrseg train` with a change of our own, in a process of its own.
DRIVER = "import sys\nfrom cgrseg.cli.main import main\n{}\nsys.exit(main(sys.argv[1:]))"


def train(data: Path, out: Path, *more: str, steps: int = 2, workers: int = 0) -> int:
    options = [*SMALL, f"--steps={steps}", f"--workers={workers}", *more]
    return main(["train", "--data", str(data), "--out", str(out), *options])


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.splitlines()[-1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset, and a run of two steps on it."""
    from conftest import make_squares

    root = tmp_path_factory.mktemp("finished")
    data = make_squares(root)
    assert train(data, root / "run") == 0
    return data, root / "run"


@pytest.fixture
def run(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The dataset, and a copy of the run."""
    shutil.copytree(finished[1], tmp_path / "run")
    return finished[0], tmp_path / "run"


def test_a_val_photo_that_cannot_be_read_is_refused_before_the_run(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, accepted in (("train", True), ("val", False)):
        path = squares / "images" / split / "1.png"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert train(squares, tmp_path / split) == (0 if accepted else 2)
        path.write_bytes(whole)
        assert (tmp_path / split).exists() == accepted
    assert "val/1.png" in last_line(capsys)


# Data loading processes


def in_small_shared_memory(kilobytes: int, change: str, data: Path, out: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small /dev/shm needs root")
    mount = f'mount -t tmpfs -o size={kilobytes}k tmpfs /dev/shm && exec "$@"'
    command = [sys.executable, "-c", DRIVER.format(change), "train", "--data", str(data), "--out", str(out), *SMALL]
    command = ["unshare", "-m", "sh", "-c", mount, "sh", *command, "--steps=50", "--workers=1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_batch_larger_than_the_shared_memory_is_one_line_before_anything_is_written(
    squares: Path, tmp_path: Path
) -> None:
    done = in_small_shared_memory(2 * BATCH_BYTES // 1024, "", squares, tmp_path / "run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "use --workers 0, or in Docker --shm-size 1g" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_shared_memory_that_fills_up_during_the_training_is_one_line(squares: Path, tmp_path: Path) -> None:
    change = """
from cgrseg.training import loop
step = loop.train_step
def fill(*arguments):
    try:
        open("/dev/shm/full", "wb").write(bytes(100 << 20))
    except OSError:
        return step(*arguments)
loop.train_step = fill
"""
    done = in_small_shared_memory(1024, change, squares, tmp_path / "run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "is full: use --workers 0" in done.stderr.splitlines()[-1]


def test_fewer_batches_are_read_ahead_where_the_shared_memory_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(out="", batch=2, workers=2)
    size = 2 * 256 * 256 * 14
    free = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    monkeypatch.setattr(loading, "SHARED_MEMORY", Path("/"))
    for batches, expected in ((100, 4), (9, 3), (4, 1)):
        free = batches * size
        assert loading.batches_ahead(config, classes=3) == expected
    free = 3 * size
    with pytest.raises(MemoryError, match="--workers 0"):
        loading.batches_ahead(config, classes=3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the signal may come within a callback
def test_a_killed_data_loading_process_is_one_line(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import multiprocessing

    step = loop.train_step

    def kill(*arguments: Any) -> Any:
        (reader,) = multiprocessing.active_children()
        os.kill(reader.pid or 0, signal.SIGKILL)
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", kill)
    assert train(squares, tmp_path / "run", workers=1, steps=50) == 2
    line = last_line(capsys)
    assert "a data loading process was ended from outside" in line and "--workers 0" in line


@pytest.mark.parametrize("how", ["(pid 7) is killed by signal: Killed. ", "(pid(s) 7, 8) exited unexpectedly"])
def test_both_messages_of_pytorch_for_an_ended_process_give_the_same_line(how: str) -> None:
    line = str(loading.explain(RuntimeError(f"DataLoader worker {how}")))
    assert line.startswith("a data loading process was ended from outside") and line.endswith("continue with --resume")


def test_an_error_of_several_lines_in_a_data_loading_process_is_one_line() -> None:
    text = "Caught ValueError in DataLoader worker process 0.\nTraceback (most recent call last):\nValueError: a: b\n c"
    assert str(loading.explain(ValueError(text))) == "a: b c"


def stored_logits(folder: Path, images: int, classes: int = 2) -> Path:
    """A folder with the teacher's logits of the first training images of `squares`."""
    folder.mkdir()
    for number in range(images):
        np.save(folder / f"{number}.npy", np.zeros((classes, 8, 8), np.float32))
    return folder


def test_an_error_in_a_data_loading_process_is_one_line(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = stored_logits(tmp_path / "logits", 6)
    for path in list(logits.iterdir())[1:]:
        path.write_bytes(b"")
    assert train(squares, tmp_path / "run", "--teacher", str(logits), "--loss.teacher=1", workers=1) == 2
    line = last_line(capsys)
    assert line.startswith("cgrseg: ") and "no teacher logits can be read" in line and line.endswith("store them again")


@pytest.mark.parametrize(
    ("images", "classes", "options", "complaint"),
    [
        (0, 2, ["--loss.teacher=1"], "has no logits of 6 of 6 training images"),
        (5, 2, ["--loss.teacher=1"], "has no logits of 1 of 6 training images"),
        (6, 3, ["--loss.teacher=1"], "has logits of 3 classes, the dataset has 2"),
        (6, 2, [], "its weight, 0: give both"),
        (6, 2, ["--loss.teacher=-1"], "loss.teacher is -1"),
    ],
)
def test_wrong_teachers_are_refused_before_anything_is_written(
    images: int,
    classes: int,
    options: list[str],
    complaint: str,
    squares: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logits = stored_logits(tmp_path / "logits", images, classes)
    assert train(squares, tmp_path / "run", "--teacher", str(logits), *options) == 2
    assert complaint in last_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sigterm_is_obeyed_while_the_training_waits_for_data(squares: Path, tmp_path: Path) -> None:
    change = """
import time
from cgrseg.data.transforms import TrainingCrops
read = TrainingCrops.__getitem__
TrainingCrops.__getitem__ = lambda self, number: time.sleep(1000 * (number >= 6)) or read(self, number)
"""
    command = [sys.executable, "-c", DRIVER.format(change), "train", "--data", str(squares), *SMALL]
    command += ["--out", str(tmp_path / "run"), "--steps=50", "--workers=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "train.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_text().count("\n") < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "stopped after step 3: continue with --resume" in error.splitlines()[-1]
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 3


# Options


def test_nodes_without_an_address_is_one_line(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert train(squares, tmp_path / "run", "--nodes=2", "--batch=4") == 2
    assert "--nodes 2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK" in last_line(capsys)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--device=cuda:97"], "cuda:97"),
        (["--device=cuda:1", "--devices=2"], "use device cuda"),
        (["--precision=fp16", "--device=cpu"], "needs a GPU"),
    ],
)
def test_a_device_that_cannot_be_used_is_one_line(
    squares: Path, tmp_path: Path, option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(squares, tmp_path / "run", *option) == 2
    assert message in last_line(capsys) and not (tmp_path / "run").exists()


def test_training_without_data_says_that_it_uses_synthetic_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--out", str(tmp_path / "run"), "--model", "cgrseg_x"]) == 2
    assert "no --data: training on synthetic scenes" in capsys.readouterr().err


def test_a_classifier_that_starts_fresh_is_said(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = run
    other = shutil.copytree(data, tmp_path / "other")
    classes = [{"id": number, "name": f"class {number}"} for number in range(5)]
    (other / "classes.json").write_text(json.dumps({"classes": classes}))
    assert train(other, tmp_path / "second", "--init", str(out / "last.safetensors"), steps=1) == 0
    assert "the classifier starts fresh: 2 -> 5 classes" in capsys.readouterr().out


# Resuming


def test_resume_alone_takes_the_settings_of_the_run_and_says_where_it_continues(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--out", str(run[1]), "--resume"]) == 0
    assert "resumed at step 2 of 2" in capsys.readouterr().out


def test_a_run_is_extended_by_more_steps_and_never_shortened(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = run[1]
    assert main(["train", "--out", str(out), "--resume", "--steps", "1"]) == 2
    assert "extend it with --steps" in last_line(capsys)
    assert main(["train", "--out", str(out), "--resume", "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert "extended from 2 to 4 steps" in said and "schedule of 4 steps, 0.0005 at this step" in said
    log = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert yaml.safe_load((out / "config.yaml").read_text())["steps"] == 4
    assert cgrseg.load(out / "last.safetensors").card["step"] == 4


def other_state(path: Path, **changed: Any) -> None:
    torch.save({**torch.load(path, weights_only=True), **changed}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("flipped", "is damaged"),
        ("empty", "is damaged"),
        ("garbage", "is damaged"),
        ("cut", "is damaged"),
        ("pickle", "is damaged or not a state"),
        ("packed", "compressed"),
        ("keys", "is not a state of a run"),
        ("list", "is not a state of a run"),
        ("seed", "is of a run with seed 1, not 0"),
        ("model", "is of a run with model 'cgrseg_t', not 'cgrseg_n'"),
        ("tensors", "is of another run"),
        ("progress", "is of another run"),
    ],
)
def test_a_damaged_or_foreign_state_is_one_line_and_is_left_alone(
    run: tuple[Path, Path], damage: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = run
    path = out / "state.pt"
    content = path.read_bytes()
    if damage == "flipped":
        middle = content.index(b"data/0") + len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage in ("empty", "garbage", "cut"):
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 99, "cut": content[:5000]}[damage])
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Path("/")))
    elif damage == "packed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**7))
    elif damage == "keys":
        torch.save({"step": 2}, path)
    elif damage == "list":
        torch.save([1, 2], path)
    elif damage in ("seed", "model"):
        config = torch.load(path, weights_only=True)["config"]
        other_state(path, config={**config, damage: {"seed": 1, "model": "cgrseg_t"}[damage]})
    elif damage == "tensors":
        other_state(path, model={"encoder.stem.0.weight": torch.zeros(3)})
    else:
        other_state(path, progress={"place": 3})
    before = path.read_bytes()
    assert train(data, out, "--resume") == 2
    assert message in (line := last_line(capsys)) and str(path) in line
    assert path.read_bytes() == before


def split(folder: Path) -> Data:
    train, val = (open_dataset(folder, name, format="folder") for name in ("train", "val"))
    return Data(train, val, val)


def test_a_photo_added_since_the_run_began_is_said(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(run[0], tmp_path / "grown")
    for folder in ("images", "masks"):
        shutil.copy(data / folder / "train" / "0.png", data / folder / "train" / "9.png")
    with Image.open(data / "images" / "train" / "9.png") as photo:
        photo.rotate(180).save(data / "images" / "train" / "9.png")
    config = yaml.safe_load((run[1] / "config.yaml").read_text())
    other_state(run[1] / "state.pt", config={**config, "data": str(data)})
    (run[1] / "config.yaml").write_text(yaml.safe_dump({**config, "data": str(data)}))
    assert train(data, run[1], "--resume") == 0
    assert "train has 7 images, not 6 since the run began" in capsys.readouterr().out


def test_swapped_class_names_are_refused_and_renamed_ones_said(squares: Path) -> None:
    before = fingerprint(split(squares))
    assert changes(before, split(squares)) == []
    with pytest.raises(ValueError, match="class 0 is 'ground', was 'square'"):
        changes({**before, "classes": ["square", "ground"]}, split(squares))
    with pytest.raises(ValueError, match="2 classes, not 3"):
        changes({**before, "classes": ["ground", "square", "sky"]}, split(squares))
    assert "class 1 is 'square', was 'box'" in changes({**before, "classes": ["ground", "box"]}, split(squares))[0]


def test_two_trainings_in_one_folder_is_one_line_until_the_first_has_ended(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = run
    unfinished = out / ".unfinished-0123.pt"
    unfinished.write_bytes(b"half a checkpoint")
    code = (
        "import sys, time; from cgrseg.training.checkpoint import RunFolder; "
        "from cgrseg.training.config import TrainConfig\n"
        "with RunFolder(TrainConfig(out=sys.argv[1]))._locked(): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        assert train(data, out, "--resume") == 2
        assert "another training is running in" in last_line(capsys) and unfinished.exists()
        other.kill()
    assert train(data, out, "--resume") == 0
    assert not unfinished.exists()


def test_a_state_is_on_the_disk_before_it_replaces_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    replace, flush = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), replace(*paths))[1])
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("flush"), flush(file))[1])
    RunFolder(TrainConfig(out=str(tmp_path))).save_state({"step": 1})
    assert calls[:2] == ["flush", "rename"]


# Divergence


def test_weights_that_diverge_are_said_in_scoring_with_the_loss_and_the_cure(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = loop.train_step

    def diverge(fabric: Any, config: Any, parts: Any, *rest: Any) -> Any:
        done = step(fabric, config, parts, *rest)
        parts.network.head.classifier.bias.data.fill_(float("inf"))
        return done

    monkeypatch.setattr(loop, "train_step", diverge)
    assert train(squares, tmp_path / "run", "--val_every=1") == 2
    line = last_line(capsys)
    assert "the training diverged: at step 1, with a loss of" in line and "lower --optim.lr" in line
    assert "train.jsonl" in line


# Scores


@pytest.fixture
def many(squares: Path) -> Path:
    """The dataset with 40 val images."""
    for number in range(2, 40):
        for folder in ("images", "masks"):
            shutil.copy(squares / folder / "val" / "0.png", squares / folder / "val" / f"{number}.png")
        with Image.open(squares / "images" / "val" / "0.png") as photo:
            pixels = np.asarray(photo).copy()
        pixels[0, 0] = number  # not the same photo
        Image.fromarray(pixels).save(squares / "images" / "val" / f"{number}.png")
    return squares


def test_scoring_takes_a_tenth_of_the_time_and_is_in_full_at_the_end_and_on_request(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate, step, scored, now = scoring.evaluate, loop.train_step, [], [0.0]

    def slow(predictor: Any, samples: Any, **options: Any) -> Any:
        done = evaluate(predictor, samples, **options)
        scored.append((samples.split, len(done.photo_iou)))
        now[0] += 0.05 * len(done.photo_iou)
        return done

    def half_a_second(*arguments: Any) -> Any:
        now[0] += 0.5
        return step(*arguments)

    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(scoring, "time", clock)
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(scoring, "evaluate", slow)
    monkeypatch.setattr(loop, "train_step", half_a_second)
    assert train(many, tmp_path / "run", steps=20) == 0
    assert "scoring 8 of 40 val images during the run" in capsys.readouterr().err
    during, end = scored[:-2], scored[-2:]
    assert end == [("test", 2), ("val", 40)]
    assert during == [("val", 8)] * 3  # at the first time, when a tenth of the time is more than it took, at the end
    assert cgrseg.load(tmp_path / "run" / "best.safetensors").card["images"] == 40
    scored.clear()
    assert train(many, tmp_path / "all", "--val_every=10", steps=20) == 0
    assert scored == [("val", 40), ("val", 40), ("test", 2)]
    one, other = (cgrseg.load(tmp_path / name / "last.safetensors").state_dict() for name in ("run", "all"))
    assert all(torch.equal(one[key], other[key]) for key in one)  # scoring does not change what is trained


@pytest.mark.parametrize(
    ("scores", "limits"),
    [
        ([76.20, 76.29], (73.745, 78.745)),
        ([10.0, 60.0], (5.0, 65.0)),
        ([0.0, 0.1], (0.0, 5.0)),
        ([99.9, 100.0], (95.0, 100.0)),
        ([float("nan")], (0.0, 100.0)),
    ],
)
def test_the_axis_of_scores_spans_five_points_or_more(scores: list[float], limits: tuple[float, float]) -> None:
    assert score_limits(scores) == pytest.approx(limits)


# Progress


def test_a_log_gets_plain_lines_and_a_terminal_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(terminal=False, seconds=0, total=3, unit="step", desc="cgrseg_t") as bar:
        for _ in range(3):
            time.sleep(0.01)
            bar.update()
    lines = capsys.readouterr().err
    assert "\r" not in lines and "cgrseg_t: 3 of 3 steps" in lines.splitlines()[-1]
    with progress_bar(terminal=False, total=3, unit="step") as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""  # done sooner than a line is due
    with progress_bar(terminal=True, total=3, unit="step") as bar:
        bar.update(3)
    assert "\r" in (text := capsys.readouterr().err) and "100%" in text


def test_training_writes_no_carriage_returns_into_a_log(finished: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cgrseg", "train", "--data", str(finished[0]), "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, *SMALL, "--steps=2", "--workers=0"], capture_output=True, timeout=120)
    assert done.returncode == 0 and b"\r" not in done.stdout + done.stderr
    assert b"step 2: val mIoU" in done.stderr


# What a run says and draws


def test_a_training_says_ten_warnings_of_the_data_and_counts_the_others(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        shutil.copy(squares / "masks" / "train" / "0.png", squares / "masks" / "train" / f"unused{number}.png")
    assert train(squares, tmp_path / "run", steps=1) == 0
    printed = capsys.readouterr().out
    assert printed.count("warning: ") == 10 and "unused0.png: has no photo of the same name" in printed
    assert "… and 2 more: `cgrseg check-data` lists them" in printed


def test_the_samples_of_a_run_with_resize_to_are_those_that_predict_labels(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = cgrseg.create_model("cgrseg_n", num_classes=2).eval()
    model.describe(preprocessing=replace(model.preprocessing, short_side=160, pad_multiple=32))
    drawn: list[np.ndarray] = []

    def note(photo: np.ndarray, truth: np.ndarray, predicted: np.ndarray, labels: Any) -> Image.Image:
        drawn.append(predicted)
        return Image.fromarray(photo)

    monkeypatch.setattr(pictures, "side_by_side", note)
    samples = open_dataset(squares, "val")
    pictures.samples_sheet(model, samples).save(tmp_path / "samples.png")
    segmenter = cgrseg.Segmenter(model)
    expected = [segmenter(samples.read(index)[0]).labels for index in range(len(samples))]
    assert all((one == other).mean() > 0.99 for one, other in zip(drawn, expected, strict=True))
    full_size = cgrseg.Segmenter(model, short_side=0)(samples.read(0)[0]).labels
    assert (full_size == expected[0]).mean() < 0.99  # so the resizing matters

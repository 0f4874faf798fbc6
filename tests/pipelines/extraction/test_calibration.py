"""Calibration as part of a run: planned, limited, kept over a stop; a teacher of other classes refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support import begun, tree, wait_until

from pipelines.cli import main
from teacher_cache.archive.open import open_labels
from teacher_cache.models.create import create_model

Capture = pytest.CaptureFixture[str]
NUM_CLASSES = 4
PER_CLASS = 300

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 1,200 images whose class is their brightness, and a teacher that sees it.

    The teacher's classes are right in right.safetensors, and rotated by one in rotated.safetensors.
    """
    root = tmp_path_factory.mktemp("hues")
    rng = np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        (root / "in" / str(label)).mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels_HWC = np.clip(30 + 60 * label + rng.normal(0, 4, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels_HWC).save(root / "in" / str(label) / f"{number}.png")
    assert main(["pack", str(root / "in"), str(root / "data"), "--shard-size=500"]) == 0
    weights = _trained(root).state_dict()
    safetensors.torch.save_file(weights, root / "right.safetensors")
    rotated = {**weights, **{f"fc.{name}": weights[f"fc.{name}"].roll(1, 0) for name in ("weight", "bias")}}
    safetensors.torch.save_file(rotated, root / "rotated.safetensors")
    return root


def _trained(root: Path) -> torch.nn.Module:
    model = create_model("test_resnet", num_classes=NUM_CLASSES, img_size=24).train()
    files = [(label, file) for label in range(NUM_CLASSES) for file in (root / "in" / str(label)).iterdir()]
    pixels_BHWC = np.stack([np.asarray(Image.open(file)) for _, file in files[::10]])
    inputs_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2) / 255
    labels_B = torch.tensor([label for label, _ in files[::10]])
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model((inputs_BCHW - mean) / std), labels_B).backward()
        optimizer.step()
    return model.eval()


def flags(hues: Path, out: Path, *more: str, weights: str = "right") -> list[str]:
    teacher = ["--teacher=test_resnet", f"--checkpoint={hues / weights}.safetensors"]
    return [
        f"--data={hues / 'data'}",
        *teacher,
        "--recipe=eval",
        "--img-size=24",
        "--topk=2",
        f"--out={out}",
        *more,
    ]


def report_of(out: Path) -> dict:
    (run,) = (out.parent / f"{out.name}.runs").iterdir()
    return json.loads((run / "report.json").read_text())


def test_a_right_teacher_is_told_everywhere(hues: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert main(["plan", *flags(hues, out), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["calibration_views"] == 80
    assert planned["agreement"]["verdict"] == "fits"
    assert main(["extract", *flags(hues, out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["calibration_views"], found["agreement"]["views"]) == (80, 80)
    assert found["agreement"]["agreed"] > 70
    report = report_of(out)
    assert report["agreement"] == found["agreement"]
    assert report["actual"]["calibration_views"] == report["estimate"]["calibration_views"] == 80
    assert main(["status", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"] == found["agreement"]
    assert main(["verify", str(out), "--level=full"]) == 0
    (out / "receipts" / "agreement.json").write_bytes(b"{}")
    assert main(["verify", str(out), "--level=quick"]) == 1
    assert main(["repair", str(out)]) == 0
    assert main(["verify", str(out), "--level=full"]) == 0


def test_a_teacher_of_another_order_is_refused_before_the_first_unit(
    hues: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert main(["extract", *flags(hues, out, weights="rotated")]) == 2
    said = capsys.readouterr().err
    assert "another order" in said
    assert "--allow-disagreement" in said
    assert not list(out.rglob("idx/c/*/*"))
    assert report_of(out)["state"] == "failed"
    assert main(["extract", *flags(hues, out, "--allow-disagreement", weights="rotated")]) == 0
    assert len(open_labels(str(out)).views) == 1


def test_without_an_affinity_the_agreement_is_measured_all_the_same(
    hues: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["extract", *flags(hues, tmp_path / "bad", "--affinity=none", weights="rotated")]) == 2
    out = tmp_path / "out"
    assert main(["extract", *flags(hues, out, "--affinity=none"), "--json"]) == 0
    capsys.readouterr()
    archive = open_labels(str(out))
    assert archive.spec.labels.affinity is None
    assert archive.affinity is None
    assert report_of(out)["agreement"]["views"] == 1024
    assert main(["verify", str(out), "--level=full"]) == 0


def test_soft_training_without_an_affinity_asks_for_another_tail(
    hues: Path, tmp_path: Path, capsys: Capture
) -> None:
    from student.cli import main as student

    assert main(["extract", *flags(hues, tmp_path / "out", "--affinity=none")]) == 0
    words = ["train", f"--data={hues / 'data'}", f"--labels={tmp_path / 'out'}", "--distillation=soft"]
    words += ["--model=test_resnet", "--batch-size=8", "--steps=2"]
    assert student([*words, f"--output={tmp_path / 'run'}"]) == 2
    assert "--tail uniform" in capsys.readouterr().err
    assert student([*words, "--tail=uniform", f"--output={tmp_path / 'run'}"]) == 0


def test_a_run_stops_before_its_limit_of_hours_is_passed_and_goes_on(
    hues: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.extraction.running import extract

    monkeypatch.setattr(extract, "check_gpu_hours", lambda found, limit: None)  # an estimate that was too low
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert main(["extract", *flags(hues, whole, "--views=0:8", "--views-per-unit=1")]) == 0
    hours = report_of(whole)["actual"]["gpu_hours"]
    limited = flags(hues, out, "--views=0:8", "--views-per-unit=1", f"--max-gpu-hours={hours / 2}")
    capsys.readouterr()
    assert main(["extract", *limited]) == 1
    assert "would be passed" in capsys.readouterr().err
    assert 0 < report_of(out)["actual"]["gpu_hours"] < hours / 2
    (run,) = (out.parent / "out.runs").iterdir()
    run.rename(tmp_path / "first-run")
    assert main(["extract", *flags(hues, out, "--views=0:8", "--views-per-unit=1")]) == 0
    assert tree(out) == tree(whole)


def parts_of(out: Path) -> set[str]:
    return {file.name for file in out.glob("calibration/calibration-*") if "partial" not in file.name}


@pytest.mark.kill
def test_sigkill_in_the_calibration_loses_less_than_a_part(hues: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = [*flags(hues, out, "--affinity=none", "--batch-size=4")]  # 1,024 calibration views: four parts
    process = begun(main, ["extract", *words])
    wait_until(lambda: len(parts_of(out)) >= 2, process.is_alive)
    process.kill()
    process.join()
    kept = parts_of(out)
    assert 2 <= len(kept) < 4
    assert main(["extract", *words]) == 0
    _, second = sorted((out.parent / "out.runs").iterdir(), key=lambda run: run.stat().st_mtime_ns)
    events = [json.loads(line) for line in (second / "events.jsonl").read_text().splitlines()]
    again = {event["unit"] for event in events if event["event"] == "calibration_done"}
    assert again == {f"calibration-{number:05d}" for number in range(4)} - kept
    assert main(["extract", *flags(hues, whole, "--affinity=none", "--batch-size=4")]) == 0
    assert tree(out) == tree(whole)
    assert not parts_of(out)

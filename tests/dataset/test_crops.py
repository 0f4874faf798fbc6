"""A dataset rewritten for crops has the identity, keys, order, labels and pixels of its source."""

import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from support import CLASSES, encoded, extract_flags, picture, tree, write_class_folders

from pipelines.cli import main
from student.cli import main as student
from teacher_cache import images
from teacher_cache.dataset.shards import PackedDataset

SIZE = (120, 160)
STUDENT = (
    "--model=deit_tiny_distilled_patch16_224",
    *("--model-kwargs", "patch_size=8", "embed_dim=48", "depth=2", "num_heads=3"),
)
TRAINING = ["--batch-size=4", "--steps=100", *STUDENT, "--distillation=soft"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three packed datasets: `whole` as it is, `crops` rewritten, `upgraded` made of `whole`."""
    root = tmp_path_factory.mktemp("crops")
    for number in range(24):
        file = root / "images" / CLASSES[number % 3] / f"{number:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(number, *SIZE), "JPEG", quality=85 + number % 10))
    (root / "images/ant/smooth.jpg").write_bytes(encoded(picture(99, *SIZE), "JPEG", progressive=True))
    (root / "images/bee/line.png").write_bytes(encoded(picture(98, *SIZE), "PNG"))
    for name, src, flags in (
        ("whole", "images", ["--no-crops"]),
        ("crops", "images", []),
        ("upgraded", "whole", []),
        ("again", "crops", []),
    ):
        size = ["--shard-size", "10"] if src == "images" else []
        assert main(["pack", str(root / src), str(root / name), *size, *flags]) == 0
    return root


def test_identity_keys_labels_and_pixels_stay(sources: Path) -> None:
    whole, *others = (PackedDataset(str(sources / name)) for name in ("whole", "crops", "upgraded", "again"))
    for other in others:
        assert other.info.sha256 == whole.info.sha256
        assert other.index.keys == whole.index.keys
        assert np.array_equal(other.index.labels_N, whole.index.labels_N)
        for row in range(len(whole)):
            pixels = [images.decode(each.image_bytes(row), "row") for each in (whole, other)]
            assert np.array_equal(*pixels)
    assert others[0].image_bytes(0) != whole.image_bytes(0)


def test_an_upgrade_is_what_packing_would_have_made(sources: Path) -> None:
    tars = [
        {name: data for name, data in tree(sources / which).items() if name.endswith((".tar", ".parquet"))}
        for which in ("crops", "upgraded", "again")
    ]
    assert tars[0] == tars[1] == tars[2]


def test_what_cannot_be_cut_is_said(sources: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["pack", str(sources / "images"), str(sources / "said"), "--json"]
    assert main(flags) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert (
        "24 of 26 images support fast cropped decoding; 2, small or not baseline JPEGs, are decoded in full"
        in notes
    )


def test_a_seed_shuffles_a_packed_dataset_again(sources: Path) -> None:
    assert main(["pack", str(sources / "whole"), str(sources / "shuffled"), "--seed", "1"]) == 0
    whole, shuffled = (PackedDataset(str(sources / name)) for name in ("whole", "shuffled"))
    assert sorted(shuffled.index.keys.to_pylist()) == sorted(whole.index.keys.to_pylist())
    assert shuffled.info.sha256 != whole.info.sha256


def test_a_damaged_shard_is_not_upgraded(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name, data in tree(sources / "whole").items():
        (damaged / name).write_bytes(data)
    shard = damaged / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[3000] ^= 1
    shard.write_bytes(data)
    assert main(["pack", str(damaged), str(tmp_path / "out")]) == 2
    assert "does not have the sha256 in dataset.json" in capsys.readouterr().err


def test_growing_keeps_the_full_shards_and_their_identity(sources: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    write_class_folders(new)
    for base in ("whole", "crops"):
        flags = ["--extends", str(sources / base), "--shard-size", "10"]
        assert main(["pack", str(new), str(tmp_path / base), *flags]) == 0
    grown = [PackedDataset(str(tmp_path / base)).info.shards for base in ("whole", "crops")]
    assert [shard.identity for shard in grown[0][:2]] == [shard.identity for shard in grown[1][:2]]


def test_plain_webdataset_reads_it(sources: Path) -> None:
    url = str(sources / "crops/shard-000000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode("rgb8"))
    dataset = PackedDataset(str(sources / "whole"))
    for row, sample in enumerate(samples):
        found = next(sample[name] for name in ("jpg", "png") if name in sample)
        assert np.array_equal(found, images.decode(dataset.image_bytes(row), "row"))


@pytest.mark.slow
@pytest.mark.parametrize(("labelled", "trained"), [("whole", "upgraded"), ("upgraded", "whole")])
def test_an_archive_of_either_trains_on_the_other(
    sources: Path, tmp_path: Path, labelled: str, trained: str
) -> None:
    archive = tmp_path / "archive"
    assert main(extract_flags(str(sources / labelled), archive)) == 0
    losses = []
    for name in (labelled, trained):
        out = tmp_path / name
        flags = ["--data", str(sources / name), "--labels", str(archive), "--output", str(out)]
        assert student(["train", *flags, *TRAINING]) == 0
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 100
    assert losses[0] == losses[1]


def test_one_other_pixel_is_another_dataset(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    archive = tmp_path / "archive"
    assert main(extract_flags(str(sources / "whole"), archive)) == 0
    other = tmp_path / "images"
    for name, data in tree(sources / "images").items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(data)
    line = picture(98, *SIZE)
    line.putpixel((0, 0), tuple(value ^ 1 for value in line.getpixel((0, 0))))
    (other / "bee/line.png").write_bytes(encoded(line, "PNG"))
    assert main(["pack", str(other), str(tmp_path / "packed"), "--shard-size", "10"]) == 0
    flags = ["--data", str(tmp_path / "packed"), "--labels", str(archive), "--output", str(tmp_path / "out")]
    assert student(["train", *flags, *TRAINING]) == 2
    assert "another image's label" in capsys.readouterr().err


def test_small_images_stay_as_they_are(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "images")
    assert main(["pack", str(tmp_path / "images"), str(tmp_path / "packed")]) == 0
    info = PackedDataset(str(tmp_path / "packed")).info
    assert info.source["cuttable"] == 0
    assert info.shards[0].original_sha256 is None

"""Comparison of archives, byte for byte, with those that another commit makes.

A few synthetic JPEGs are packed and labelled twice, by this tree and by a checkout of the other commit.
Datasets and label objects must be equal to the byte. Documents must be equal except for the probe digest, the
fingerprint over it, and the sha256 that seals a document.

    python -m benchmarks.same_bytes --commit 01a4ad7 --images 200
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_SEED = 0
_NUM_CLASSES = 20
_RUNS = {
    "deit": ["--recipe=deit", "--views=0:4", "--topk=5"],
    "deit3 in float32": ["--recipe=deit3", "--views=0:2", "--topk=5", "--values=float32"],
    "rrc, all classes": ["--recipe=rrc", "--views=0:2", f"--topk={_NUM_CLASSES}"],
    "eval": ["--recipe=eval", "--views=0:1", "--topk=3"],
}
_TEACHER = ["--teacher=regnety_002", "--no-pretrained", "--img-size=64", "--batch-size=32"]


def main() -> int:
    """Compare, print all differences, and return 1 if there are any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default="01a4ad7", help="the other commit")
    parser.add_argument("--images", type=int, default=200, help="images to pack")
    args = parser.parse_args()
    here = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_images(root / "images", args.images)
        there = root / "checkout"
        subprocess.run(["git", "-C", here, "worktree", "add", "--detach", there, args.commit], check=True)
        try:
            made = {name: _make(tree, root / name) for name, tree in (("then", there), ("now", here))}
        finally:
            subprocess.run(["git", "-C", here, "worktree", "remove", "--force", there], check=True)
        differing, counts = _compare(made["then"], made["now"])
    print(json.dumps({"commit": args.commit, "images": args.images, **counts, "differing": differing}))
    return 1 if differing else 0


def _write_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(_SEED)
    for number in range(count):
        coarse_HWC = rng.integers(0, 256, (*rng.integers(3, 9, 2), 3), np.uint8)
        width, height = (int(side) for side in rng.integers(40, 200, 2))
        image = Image.fromarray(coarse_HWC).resize((width, height), Image.Resampling.BICUBIC)
        with io.BytesIO() as buffer:
            image.save(buffer, "JPEG", quality=int(rng.integers(60, 96)))
            path = folder / f"class-{number % _NUM_CLASSES:02d}" / f"{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue())


def _make(tree: Path, out: Path) -> dict[str, bytes]:
    """Pack and label with the code in a checkout; return every file by name."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}

    def run(*words: str) -> None:
        command = [sys.executable, "-m", "pipelines.cli", *words]
        subprocess.run(command, check=True, cwd=tree, env=environment)

    data = str(out / "data")
    run("pack", str(out.parent / "images"), data, "--shard-size=64")
    for number, flags in enumerate(_RUNS.values()):
        run("extract", f"--data={data}", f"--out={out / str(number)}", *_TEACHER, *flags)
    files = (file for file in out.rglob("*") if file.is_file() and ".runs" not in str(file))
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def _without_digests(document: Any, is_sealed: bool = True) -> Any:
    """Return a document without its probe digest, its fingerprint, and the seal over them."""
    if isinstance(document, list):
        return [_without_digests(value, is_sealed=False) for value in document]
    if not isinstance(document, dict):
        return document
    left_out = {"probe_sha256", "fingerprint"} | ({"sha256"} if is_sealed else set())
    return {
        name: _without_digests(value, is_sealed=False)
        for name, value in document.items()
        if name not in left_out
    }


def _compare(then: dict[str, bytes], now: dict[str, bytes]) -> tuple[list[str], dict[str, int]]:
    """Return the names of files that differ, and the number of files compared in each way."""
    differing = sorted(then.keys() ^ now.keys())
    documents = 0
    for name in then.keys() & now.keys():
        if name.endswith(".json") and not name.startswith("data/"):
            documents += 1
            same = _without_digests(json.loads(then[name])) == _without_digests(json.loads(now[name]))
        else:
            same = then[name] == now[name]
        if not same:
            differing.append(name)
    return differing, {"objects": len(now) - documents, "documents": documents}


if __name__ == "__main__":
    sys.exit(main())

"""Archives from elsewhere that mean harm: refused with a clear error, nothing run, little memory used."""

import contextlib
import dataclasses
import io
import json
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np
import pytest
from support import tree

from pipelines.cli import main
from teacher_cache.archive.format.manifest import Manifest, zarr_documents
from teacher_cache.archive.format.receipts import receipt_name
from teacher_cache.archive.format.zarr_json import ChunkFormat, inflate, read_places
from teacher_cache.archive.open import open_labels
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.verify import verify
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, DatasetError, InputError, TeacherCacheError
from teacher_cache.exact.canonical import seal, sha256_hex, unseal
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store

_CHUNK = ChunkFormat((100, 2), np.dtype("<u2"))
_GIGABYTE = 2**30


@pytest.fixture
def copy(labels: str, tmp_path: Path) -> Path:
    shutil.copytree(labels, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def exported(labels: str, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tars"
    assert main(["export", labels, str(folder), "--data", data]) == 0
    return folder


def vouch_for(archive: Path, array: str, data: bytes) -> None:
    """Put an object into unit 00000-000, with a receipt and a manifest that vouch for it."""
    reader = ArchiveReader(str(archive))
    name = reader.spec.layout.object_name(array, reader.receipts[0].unit)
    (archive / name).write_bytes(data)
    document = unseal((archive / "manifest.json").read_bytes())
    document["units"][0]["objects"][array] = [sha256_hex(data), len(data)]
    (archive / "manifest.json").write_bytes(seal(document))
    receipt = {key: document[key] for key in ("format", "version", "fingerprint")}
    receipt["unit"] = document["units"][0]
    (archive / receipt_name(reader.receipts[0].unit)).write_bytes(seal(receipt))


def shard_of(chunk: bytes) -> bytes:
    """Return an object whose two views are one chunk, with all its checksums right."""
    body = chunk + google_crc32c.value(chunk).to_bytes(4, "little")
    index = struct.pack("<QQQQ", 0, len(body), 0, len(body))
    return body + index + google_crc32c.value(index).to_bytes(4, "little")


def bomb(inflated: int) -> bytes:
    """Return a blosc frame of zeros that inflates to very many bytes."""
    return numcodecs.Blosc(cname="zstd", clevel=9).encode(np.zeros(inflated, np.uint8))


@pytest.mark.slow
def test_a_bomb_inside_a_vouched_for_object_is_refused_before_it_is_inflated(copy: Path) -> None:
    code = (
        "import resource, sys; from teacher_cache.archive.readers.archive import ArchiveReader\n"
        "reader = ArchiveReader(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: reader.labels(0, 0)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    vouch_for(copy, "idx", shard_of(bomb(2 * _GIGABYTE - 2**20)))
    done = subprocess.run([sys.executable, "-c", code, str(copy)], capture_output=True, text=True, check=True)
    assert "DamagedError" in done.stdout
    assert "not what was written" in done.stdout
    assert int(done.stdout.splitlines()[-1]) * 1024 < _GIGABYTE // 4


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x02\x01",
        numcodecs.Blosc(cname="lz4").encode(np.zeros(200, "<u2")),
        numcodecs.Blosc(cname="zstd").encode(np.zeros(200, "<u4")),
        numcodecs.Blosc(cname="zstd").encode(np.zeros(201, "<u2")),
        numcodecs.Blosc(cname="zstd").encode(np.zeros(200, "<u2")) + b"more",
        pickle.dumps(print),
        numcodecs.Zstd().encode(np.zeros(200, "<u2")),
    ],
    ids=["empty", "short", "lz4", "other items", "other length", "trailing", "pickle", "bare zstd"],
)
def test_a_frame_that_is_not_ours_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match="blosc"):
        inflate(bytes(frame), _CHUNK)


def test_a_frame_of_ours_is_read() -> None:
    items = np.arange(200, dtype="<u2").reshape(100, 2)
    frame = numcodecs.Blosc(cname="zstd", shuffle=2).encode(items)
    np.testing.assert_array_equal(inflate(bytes(frame), _CHUNK), items)


@pytest.mark.parametrize("place", [(0, 2**40), (2**63, 8), (2**64 - 1, 2**64 - 1), (90, 20)])
def test_a_chunk_outside_its_object_is_refused(place: tuple[int, int]) -> None:
    index = struct.pack("<QQ", *place)
    data = bytes(100) + index + google_crc32c.value(index).to_bytes(4, "little")
    with pytest.raises(ValueError, match="outside"):
        read_places(lambda start, stop: data[start:stop], len(data), 1)


def changed(archive: Path, change: Callable[[dict], object]) -> Path:
    """Return an archive whose manifest was changed, and sealed again."""
    file = archive / "manifest.json"
    document = unseal(file.read_bytes())
    change(document)
    file.write_bytes(seal(document))
    return archive


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=2),
        lambda d: d.update(version=10**300),
        lambda d: d.update(format="x"),
        lambda d: d.update(fingerprint="0" * 64),
        lambda d: d.update(views=[[0, 10**9]]),
        lambda d: d.update(views=[[0, 2]]),
        lambda d: d.update(units="none"),
        lambda d: d.update(units=[{}]),
        lambda d: d["units"][0].update(shard=-1),
        lambda d: d["units"][0].update(shard=10**18),
        lambda d: d["units"][0].update(rows=10**18),
        lambda d: d["units"][0].update(rows=7),
        lambda d: d["units"][0].update(views=[0, 10**12]),
        lambda d: d["units"][0]["objects"].update(evil=["0" * 64, 1]),
        lambda d: d["units"][0]["objects"].update(idx=["../../etc/passwd", 1]),
        lambda d: d["units"][0]["objects"].update(idx=["0" * 64, 2**60]),
        lambda d: d["spec"]["labels"].update(k=10**9),
        lambda d: d["spec"]["labels"].update(k=1.5),
        lambda d: d["spec"]["labels"].update(num_classes=2**60),
        lambda d: d["spec"]["labels"].update(values="pickle"),
        lambda d: d["spec"]["labels"].update(value_step=0.125),
        lambda d: d["spec"]["labels"].update(temperature=4.0),
        lambda d: d["spec"]["labels"].update(order="class"),
        lambda d: d["spec"]["labels"].update(affinity=None),
        lambda d: d["spec"]["labels"].update(affinity={"views_per_class": 20}),
        lambda d: d["spec"]["teacher"].update(model=7),
        lambda d: d["spec"]["teacher"].pop("model_kwargs"),
        lambda d: d["units"].append(d["units"][0]),
        lambda d: d["affinity"].pop("affinity_idx"),
        lambda d: d["affinity"].update({"../../x": ["0" * 64, 1]}),
        lambda d: d["spec"]["dataset"].update(shards=[["0" * 64, 2**31]] * 5),
        lambda d: d["spec"]["dataset"].update(shards=[]),
        lambda d: d["spec"].update(views_per_unit=0),
        lambda d: d["spec"].update(views_per_unit=10**9),
        lambda d: d.update(extends=[{"archive": "/etc", "units": []}]),
        lambda d: d.update(extends=[{"archive": "http://evil", "units": []}]),
        lambda d: d.update(affinity=None),
        lambda d: d.update(affinity={"affinity_idx": ["0" * 64, -1]}),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(change: Callable[[dict], object], copy: Path) -> None:
    with pytest.raises(ArchiveError):
        ArchiveReader(str(changed(copy, change)))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 1_000_000 + b"]" * 1_000_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"sha256":' + b"9" * 1_000_000 + b"}",
        b'{"sha256":1e999}',
        b"\xff\xfe",
        b"null",
        b"{}",
        pickle.dumps({}),
    ],
    ids=["nested lists", "nested objects", "huge integer", "infinity", "not text", "null", "empty", "pickle"],
)
def test_what_is_no_manifest_is_refused(content: bytes, copy: Path) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"manifest.json is damaged"):
        ArchiveReader(str(copy))


def test_a_document_too_large_is_not_read(copy: Path) -> None:
    with (copy / "manifest.json").open("r+b") as file:
        file.truncate(8 * _GIGABYTE)
    with pytest.raises(ArchiveError, match="are never read"):
        ArchiveReader(str(copy))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 8 * _GIGABYTE


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(data_type="object", codecs=[{"name": "pickle"}]),
        lambda d: d["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle"}),
        lambda d: d.update(codecs=[{"name": "vlen-utf8"}]),
        lambda d: d.update(shape=[2**60, 2**60, 2**20]),
    ],
    ids=["objects", "pickle filter", "strings", "absurd shape"],
)
def test_zarr_metadata_of_another_kind_is_refused(
    change: Callable[[dict], object], copy: Path, dataset: PackedDataset
) -> None:
    file = copy / "labels.zarr" / "idx" / "zarr.json"
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(ArchiveError, match=r"idx/zarr.json does not describe"):
        ArchiveReader(str(copy)).check_replay(dataset.info)
    problems = [problem.what for problem in verify(str(copy), "full", silent)]
    assert problems == ["labels.zarr/idx/zarr.json does not describe the arrays in the manifest"]


def with_member(exported: Path, folder: Path, add: Callable[[tarfile.TarFile], object]) -> Path:
    """Return an export with one more member in its first tar, and descriptions that vouch for it."""
    shutil.copytree(exported, folder)
    shard = folder / "shard-000000.tar"
    with tarfile.open(shard, "a") as tar:
        add(tar)
    document = unseal((folder / "dataset.json").read_bytes())
    document["shards"][0].update(sha256=sha256_hex(shard.read_bytes()), num_bytes=shard.stat().st_size)
    (folder / "dataset.json").write_bytes(seal(document))
    export = unseal((folder / "export.json").read_bytes())
    export["dataset_sha256"] = PackedDataset(str(folder)).info.sha256
    (folder / "export.json").write_bytes(seal(export))
    return folder


def file_member(name: str) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))

    return add


def link_member(kind: bytes) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("zz.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)

    return add


@pytest.mark.parametrize(
    "add",
    [
        file_member("../up.jpg"),
        file_member("/absolute.jpg"),
        file_member("a/../../up.jpg"),
        file_member("zz.pkl"),
        file_member("zz.pyd"),
        file_member("zz.pth"),
        file_member("zz.labels.npy"),
        file_member("__labels__/spec.json"),
        file_member("__labels__/code.py"),
        link_member(tarfile.SYMTYPE),
        link_member(tarfile.LNKTYPE),
        link_member(tarfile.FIFOTYPE),
    ],
    ids=[
        "up",
        "absolute",
        "up inside",
        "pkl",
        "pyd",
        "pth",
        "odd",
        "again",
        "code",
        "symlink",
        "link",
        "pipe",
    ],
)
def test_a_tar_with_anything_else_is_refused(
    add: Callable[[tarfile.TarFile], None], exported: Path, tmp_path: Path
) -> None:
    export = with_member(exported, tmp_path / "export", add)
    before = tree(tmp_path)
    assert main(["import", str(export), str(tmp_path / "archive")]) == 2
    created = {name for name in tree(tmp_path) if name not in before}
    assert not any(name.startswith("archive/labels.zarr/idx") for name in created)


def test_a_duplicate_member_is_refused(exported: Path, tmp_path: Path) -> None:
    last = PackedDataset(str(exported)).index.key(7)
    export = with_member(exported, tmp_path / "export", file_member(f"{last}.tail.npy"))
    assert main(["import", str(export), str(tmp_path / "archive")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["shard-000001.tar", "export.json", "dataset.json", "index.parquet", "affinity.npy"]
)
def test_a_flipped_byte_of_an_export_is_found_by_import(name: str, exported: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = (exported / name).read_bytes()
    for number in range(12):
        folder = tmp_path / str(number)
        shutil.copytree(exported, folder)
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(damaged)
        assert main(["import", str(folder), str(tmp_path / f"archive-{number}")]) == 2


def test_a_flipped_byte_of_an_exported_label_is_found_by_the_stream(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "export")
    reader = open_labels(str(tmp_path / "export"))
    shard = tmp_path / "export" / "shard-000001.tar"
    whole = bytearray(shard.read_bytes())
    starts = [int(starts[3]) for _, _, starts in reader._files(1)]  # type: ignore[attr-defined]
    assert len(starts) == 3  # idx, dq, tail
    for place in [start + byte for start in starts for byte in (5, 130)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        shard.write_bytes(damaged)
        with pytest.raises(ArchiveError, match=r"labels in shard-000001.tar do not have the sha256"):
            open_labels(str(tmp_path / "export")).labels(1, 0)


def test_no_reader_unpickles(labels: str, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    for source in (open_labels(labels), open_labels(str(exported))):
        source.labels(0, 0)
        assert source.affinity is not None


def test_an_affinity_of_classes_that_are_none_is_refused(copy: Path) -> None:
    reader = ArchiveReader(str(copy))
    rows = reader.shared_arrays()
    assert rows is not None
    writer = ArchiveWriter(Store(copy), reader.spec)
    writer.freeze_shared(rows._replace(idx=rows.idx + 1), replace=True)
    writer.finish()
    with pytest.raises(ArchiveError, match="contains a class id outside the list of classes"):
        _ = ArchiveReader(str(copy)).affinity
    assert [problem.is_shared for problem in verify(str(copy), "full", silent)] == [True]


@pytest.mark.parametrize(
    "teacher",
    [
        {"model_kwargs": {"checkpoint_path": "evil.pth"}},
        {"model_kwargs": {"pretrained_cfg_overlay": {"file": "evil.pth"}}},
        {"model": "local-dir:/evil"},
        {"model": "hf-hub:evil/model"},
    ],
    ids=str,
)
def test_an_archive_cannot_say_where_to_load_a_teacher_from(
    teacher: dict, copy: Path, data: str, capsys: pytest.CaptureFixture
) -> None:
    reader = ArchiveReader(str(copy))
    spec = dataclasses.replace(reader.spec, teacher={**reader.spec.teacher, **teacher})
    manifest = Manifest(spec, reader.manifest.shared, reader.manifest.receipts)
    (copy / "manifest.json").write_bytes(manifest.to_bytes())
    for name, expected in zarr_documents(spec, reader.receipts).items():
        (copy / name).write_bytes(expected)
    assert main(["verify", str(copy), "--level", "teacher", "--data", data]) == 2
    assert "not where to load code or files from" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["0-20000000", "00000-99999999", "0-²2", "x"])
def test_odd_receipts_are_no_units(name: str, copy: Path, capsys: pytest.CaptureFixture) -> None:
    (copy / "receipts" / f"{name}.json").write_bytes(b"")
    assert main(["status", str(copy)]) == 0
    assert "10 done" in capsys.readouterr().out


def test_a_folder_in_place_of_a_document_is_found(copy: Path) -> None:
    (copy / "receipts/00000-000.json").unlink()
    (copy / "receipts/00000-000.json").mkdir()
    problems = [problem.what for problem in verify(str(copy), "full", silent)]
    assert problems == ["receipts/00000-000.json is not the one in the manifest"]


def test_what_is_no_export_is_not_imported(labels: str, exported: Path, tmp_path: Path) -> None:
    assert main(["import", labels, str(tmp_path / "a")]) == 2
    shutil.copytree(exported, tmp_path / "odd")
    export = unseal((tmp_path / "odd" / "export.json").read_bytes())
    (tmp_path / "odd" / "export.json").write_bytes(seal({**export, "spec": {}}))
    assert main(["import", str(tmp_path / "odd"), str(tmp_path / "a")]) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["shards"][0].update(name="../x"),
        lambda d: d["shards"][0].update(num_samples=-1),
        lambda d: d.pop("classes"),
        lambda d: d.update(shards=7),
    ],
)
def test_a_dataset_that_says_what_cannot_be_is_refused(
    change: Callable[[dict], object], data: str, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    document = unseal((tmp_path / "data" / "dataset.json").read_bytes())
    change(document)
    (tmp_path / "data" / "dataset.json").write_bytes(seal(document))
    with pytest.raises(DatasetError):
        PackedDataset(str(tmp_path / "data"))


def test_a_manifest_comes_back_byte_for_byte(labels: str) -> None:
    data = (Path(labels) / "manifest.json").read_bytes()
    assert Manifest.from_bytes(data, "manifest.json").to_bytes() == data


def test_errors_of_trust_are_requests_that_were_wrong() -> None:
    assert issubclass(ArchiveError, TeacherCacheError)
    assert ArchiveError.exit_code == DatasetError.exit_code == 2


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [10**400, "\ud800", nested(450), 1e308, True, None], ids=str)
@pytest.mark.parametrize("place", ["spec.labels.k", "spec.teacher.model", "units.0.rows", "spec.recipe.ops"])
def test_a_value_in_a_sealed_manifest_ends_in_a_refusal(copy: Path, place: str, value: object) -> None:
    document = unseal((copy / "manifest.json").read_bytes())
    *holders, name = place.split(".")
    holder: dict = document
    for step in holders:
        holder = holder[int(step)] if step.isdecimal() else holder[step]  # type: ignore[index]
    holder[name] = value
    (copy / "manifest.json").write_bytes(seal(document))
    with contextlib.suppress(InputError):  # any other error would fail the test
        reader = ArchiveReader(str(copy))
        reader.labels(0, 0)
        _ = reader.recipe


def test_json_that_is_nested_too_deep_is_a_refusal(copy: Path) -> None:
    for text in (b'{"a":' * 990 + b"1" + b"}" * 990, b"[" * 100_000, b'{"sha256":' * 5000):
        (copy / "manifest.json").write_bytes(text)
        with pytest.raises(ArchiveError, match="is damaged"):
            ArchiveReader(str(copy))

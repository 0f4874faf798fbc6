"""What a place may do to its reader: end too late, claim too much, link elsewhere."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tree

from pipelines.cli import main
from pipelines.explorer.collection import Collection
from teacher_cache.archive.format.companions import ROWS_FILE, companions_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, DamagedError, DatasetError, DeniedError, InputError
from teacher_cache.exact.canonical import seal, sha256_hex, unseal
from teacher_cache.storage.store import Store

_MIB = 2**20


class _Endless(http.server.BaseHTTPRequestHandler):
    """Says 1,000 bytes to HEAD, and gives bytes without end to GET."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chunk = b"100000\r\n" + bytes(_MIB) + b"\r\n"
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(chunk)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def endless() -> Iterator[Store]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Store(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_an_answer_without_end_is_read_to_its_limit(endless: Store, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert endless.stat("x") == 1000
    for read in (
        lambda: endless.get("x", 1000),
        lambda: endless.get_many(["x", "y"], 1000),
        lambda: endless.copy_to("x", tmp_path / "x"),
        lambda: endless.copy_to("x", tmp_path / "x", 10 * _MIB),
    ):
        with pytest.raises(DamagedError, match=r"has more than [0-9,]+ bytes"):
            read()
        assert not (tmp_path / "x").exists()
    assert endless.get_range("x", 10, 20) == bytes(10)
    assert endless.get_ranges("x", [(0, 5), (2 * _MIB, 2 * _MIB + 3)]) == [bytes(5), bytes(3)]
    with pytest.raises(InputError):
        PackedDataset(endless.url)
    with pytest.raises(ArchiveError):
        ArchiveReader(endless.url)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 200 * _MIB


@pytest.fixture
def copy(labels: str, tmp_path: Path) -> Path:
    return shutil.copytree(labels, tmp_path / "copy")


@pytest.fixture
def packed(data: str, tmp_path: Path) -> Path:
    return shutil.copytree(data, tmp_path / "packed")


def test_companions_are_small_alone_and_together(copy: Path, tmp_path: Path) -> None:
    for number in range(5):
        with (copy / "figures" / f"{'x' * (number + 1)}.png").open("wb") as file:
            file.truncate(31 * _MIB)
    with pytest.raises(DamagedError, match="bytes together"):
        companions_of(Store(copy))
    assert main(["pull", str(copy), str(tmp_path / "pulled")]) == 2
    with (copy / "README.md").open("wb") as file:
        file.truncate(700 * _MIB)
    with pytest.raises(DamagedError, match="are never read"):
        companions_of(Store(copy))


def test_the_figures_of_rows_are_copied_through_a_file(copy: Path, tmp_path: Path) -> None:
    pulled = tmp_path / "pulled"
    assert main(["pull", str(copy), str(pulled)]) == 0
    assert (pulled / ROWS_FILE).read_bytes() == (copy / ROWS_FILE).read_bytes()
    before = (pulled / ROWS_FILE).stat().st_mtime_ns
    assert main(["pull", str(copy), str(pulled)]) == 0
    assert (pulled / ROWS_FILE).stat().st_mtime_ns == before
    assert tree(pulled)[ROWS_FILE] == tree(copy)[ROWS_FILE]


def with_rows(archive: Path, table: pa.Table, **changes: object) -> str:
    """Replace the figures of rows, and vouch for them in the other figures."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    (archive / ROWS_FILE).write_bytes(sink.getvalue())
    file = archive / "figures" / "labels.json"
    document = unseal(file.read_bytes())
    document["figures"] |= {"rows_sha256": sha256_hex(sink.getvalue()), **changes}
    file.write_bytes(seal(document))
    return str(archive)


def test_rows_must_be_as_many_as_the_samples_before_they_are_read(copy: Path) -> None:
    table = pq.read_table(copy / ROWS_FILE)
    many = pa.concat_tables([table.slice(0, 1)] * 20_000).combine_chunks()
    with pytest.raises(ArchiveError, match="do not fit"):
        Collection(ArchiveReader(with_rows(copy, many, rows=len(many))), None)
    with pytest.raises(ArchiveError, match=r"cannot be used: [0-9,]+ rows"):
        Collection(ArchiveReader(with_rows(copy, many, rows=len(table))), None)
    with pytest.raises(ArchiveError, match="do not fit"):
        Collection(ArchiveReader(with_rows(copy, table.slice(1), rows=len(table) - 1)), None)
    wrong = table.set_column(0, "label", pa.array([10**6] * len(table), pa.int32()))
    with pytest.raises(ArchiveError, match="classes in label"):
        Collection(ArchiveReader(with_rows(copy, wrong, rows=len(table))), None)


def test_samples_that_a_manifest_claims_take_no_memory(copy: Path) -> None:
    """The manifest is right in itself: an explorer that lists all rows would need 22 GiB."""
    reader = ArchiveReader(str(copy))
    shards = [(sha256, 3 * 10**9) for sha256, _ in reader.spec.dataset["shards"]]
    reader.spec.dataset["shards"] = shards
    shutil.rmtree(copy / "figures")
    collection = Collection(reader, None)
    assert len(collection.sorted_rows("row", None)) == len(shards) * 3 * 10**9
    assert list(collection.sorted_rows("row", None)[:3]) == [0, 1, 2]
    assert collection.classes[2] == "2"


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("offset", None, "1 rows have no offset"),
        ("size", None, "1 rows have no size"),
        ("key", None, "1 rows have no key"),
        ("sha256", None, "1 rows have no sha256"),
        ("offset", -1, "outside their files"),
        ("offset", 2**62, "outside their files"),
        ("offset", 2**63 - 1, "outside their files"),
        ("size", 2**31 - 1, "outside their files"),
        ("label", 10**6, "none of the 3 classes"),
        ("label", -2, "none of the 3 classes"),
    ],
)
def test_numbers_of_an_index_are_checked(packed: Path, column: str, value: object, what: str) -> None:
    table = pq.read_table(packed / "index.parquet")
    values = table[column].to_pylist()
    values[1] = value
    place = table.column_names.index(column)
    with_index(packed, table.set_column(place, column, pa.array(values, table.schema.field(column).type)))
    with pytest.raises(DatasetError, match=what):
        PackedDataset(str(packed))


def with_index(dataset: Path, table: pa.Table, **options: object) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", **options)
    (dataset / "index.parquet").write_bytes(sink.getvalue())
    document = unseal((dataset / "dataset.json").read_bytes())
    document["index_sha256"] = sha256_hex(sink.getvalue())
    (dataset / "dataset.json").write_bytes(seal(document))


def test_an_index_of_few_bytes_claims_no_gigabytes(packed: Path) -> None:
    table = pq.read_table(packed / "index.parquet")
    key = table.column_names.index("key")
    long = pa.array(["a" * 10_000_000] * len(table), pa.string())
    with_index(packed, table.set_column(key, "key", long), use_dictionary=False)
    with pytest.raises(DatasetError, match=r"bytes that claim 33 rows, 330,[0-9,]+ bytes"):
        PackedDataset(str(packed))


def test_links_lead_to_nothing_outside(packed: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.tar"
    shutil.copy(packed / "shard-000000.tar", outside)
    (packed / "shard-000000.tar").unlink()
    (packed / "shard-000000.tar").symlink_to(outside)
    with pytest.raises(DamagedError, match="is a link that leads out of"):
        PackedDataset(str(packed)).image_bytes(0)
    for place in (str(tmp_path), f"file://{tmp_path}"):
        assert PackedDataset(str(packed), images_in=[place]).image_bytes(0)
    (tmp_path / "linked").symlink_to(packed)
    assert PackedDataset(str(tmp_path / "linked"), images_in=[str(tmp_path)]).image_bytes(0)


def test_the_hubs_own_cache_is_made_of_links(data: str, tmp_path: Path) -> None:
    repository = tmp_path / "datasets--acme--data"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in Path(data).iterdir():
        shutil.copy(file, repository / "blobs" / sha256_hex(file.read_bytes()))
        (snapshot / file.name).symlink_to(f"../../blobs/{sha256_hex(file.read_bytes())}")
    assert PackedDataset(str(snapshot)).image_bytes(0)


def test_odd_files_neither_block_nor_crash(copy: Path, tmp_path: Path) -> None:
    store = Store(copy)
    (copy / "loop").symlink_to(copy / "loop")
    os.mkfifo(copy / "pipe")
    assert store.stat("loop") is store.stat("pipe") is store.stat("x" * 300) is None
    assert store.get("pipe") == b""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(DeniedError, match="Is a directory"):
            store.get("labels.zarr")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    for name in ("loop", "x" * 300):
        with pytest.raises(DamagedError, match="No file can have this name"):
            store.get(name)
    (copy / "labels.zarr" / "tail").rename(tmp_path / "tail")
    (copy / "labels.zarr" / "tail").symlink_to(tmp_path / "tail")
    with pytest.raises(DamagedError, match="leads out"):
        store.put("labels.zarr/tail/c/9/9", b"x")
    assert not (tmp_path / "tail/c/9").exists()

"""Places as they are: file systems that lack a call or are full, buckets that may not be listed, proxies."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gates import gate
from s3fs import S3FileSystem
from support import S3, extract_flags, tree

from pipelines.cli import main
from teacher_cache.archive.open import open_labels
from teacher_cache.errors import DeniedError, FullError
from teacher_cache.storage.store import Store


def failing(number: int, call: Callable[[int], object] | None = None) -> Callable[..., object]:
    """Return a function that fails as a system call does; with `call`, for folders alone."""

    def fail(handle: int, *_: object, **__: object) -> object:
        if call is not None and not stat.S_ISDIR(os.fstat(handle).st_mode):
            return call(handle)
        raise OSError(number, os.strerror(number))

    return fail


LACKS = {
    "no sync of folders": ("fsync", (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)),
    "no hard links": ("link", (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)),
    "no locks": ("flock", (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)),
}


@pytest.fixture(params=[(name, number) for name, (_, numbers) in LACKS.items() for number in numbers])
def poor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name, number = request.param
    call = LACKS[name][0]
    real = os.fsync if call == "fsync" else None
    monkeypatch.setattr(fcntl if call == "flock" else os, call, failing(number, real))


@pytest.mark.usefixtures("poor")
def test_a_store_does_without_a_call_that_a_file_system_lacks(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "root")
    with store.exclusive():
        assert store.put_new("a/b", b"first")
        assert not store.put_new("a/b", b"second")
        store.put("a/c", b"1")
        store.put("a/c", b"2")
    assert store.sizes() == {"a/b": 5, "a/c": 1}
    assert (store.get("a/b"), store.get("a/c")) == (b"first", b"2")
    assert not list(tmp_path.rglob("*.partial-*"))


@pytest.mark.parametrize(
    ("call", "number"), [("fsync", errno.EIO), ("fsync", errno.ENOSPC), ("link", errno.EIO)]
)
def test_a_disk_that_fails_is_no_disk_that_lacks_a_call(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(FullError if number == errno.ENOSPC else DeniedError, match="cannot write"):
        store.put_new("a", b"1")
    assert store.stat("a") is None or call == "fsync"


def in_namespace(script: str, *argv: object) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in a mount namespace of its own; skip where the machine gives none."""
    words = ["unshare", "--mount", "--propagation=private", "bash", "-c", script, "sh", *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")
    return done


PROGRAM = (sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))")
FILLS = """
mount -t tmpfs -o size=$1k tmpfs "$2" || exit 77; shift 2
"$@" && exit 3
mount -o remount,size=40000k "$OUT"; "$@" || exit 4
cp -r "$OUT/out" "$COPY"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    ["webdataset", *(pytest.param(name, marks=pytest.mark.soak) for name in ("parquet", "parquet-images"))],
)
def test_an_export_onto_a_disk_that_is_full_goes_on(
    what: str, labels: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--data", data, "--format", what]
    assert main(["export", labels, str(tmp_path / "whole"), *flags]) == 0
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("OUT", str(tmp_path / "disk"))
    monkeypatch.setenv("COPY", str(tmp_path / "copy"))
    size = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    out = tmp_path / "disk" / "out"
    words = [*PROGRAM, "export", labels, out, *flags]
    done = in_namespace(FILLS, size * 6 // 10240, tmp_path / "disk", *words)
    assert done.returncode == 0, done.stderr
    assert "run the same command again" in done.stderr
    assert tree(tmp_path / "copy") == tree(tmp_path / "whole")


@pytest.fixture
def forget_endpoints() -> Iterator[Callable[[], None]]:
    """Yield a function after which S3 is opened anew: fsspec keeps a file system with the endpoint it had."""
    S3FileSystem.clear_instance_cache()
    yield S3FileSystem.clear_instance_cache
    S3FileSystem.clear_instance_cache()


def test_an_export_does_not_go_on_from_another_request(labels: str, data: str, tmp_path: Path) -> None:
    out = Store(tmp_path / "out")
    assert main(["export", labels, str(tmp_path / "done"), "--data", data, "--views", "0:1"]) == 0
    assert "exporting.json" not in Store(tmp_path / "done").list()
    out.put("exporting.json", b"{}")
    assert main(["export", labels, out.url, "--data", data]) == 2
    assert out.list() == ["exporting.json"]


def test_a_public_bucket_over_the_web_that_denies_what_is_not_there(labels: str, tmp_path: Path) -> None:
    with gate(Path(labels).parent, lists=False) as server:
        url = f"http://127.0.0.1:{server.server_port}/{Path(labels).name}"
        assert main(["pull", url, str(tmp_path / "copy")]) == 0
        assert main(["verify", url, "--level", "full"]) == 0
        assert open_labels(str(tmp_path / "copy")).views == open_labels(labels).views
        with pytest.raises(DeniedError, match="access is denied"):
            open_labels(f"{url}-of-nobody")


def test_a_bucket_that_may_be_read_but_not_listed(
    s3: str,
    s3_server: S3,
    labels: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget_endpoints: Callable[[], None],
) -> None:
    assert main(["push", labels, f"{s3}/labels"]) == 0
    with gate(s3_server.port, lists=False) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        forget_endpoints()
        store = Store(f"{s3}/labels")
        assert store.sizes_if_listed() is None
        assert store.stat("manifest.json") is not None
        assert store.stat_optional("part.json") is None
        with pytest.raises(DeniedError):
            store.stat("part.json")
        with pytest.raises(DeniedError):
            store.list()
        assert main(["pull", f"{s3}/labels", str(tmp_path / "copy")]) == 0
        assert main(["verify", f"{s3}/labels", "--level", "full"]) == 0
        assert any("list-type" in line for line in server.asked)
    assert tree(tmp_path / "copy" / "receipts") == tree(Path(labels) / "receipts")


def test_proxies_of_the_environment_are_used_for_the_web_and_for_s3(
    s3: str,
    s3_server: S3,
    labels: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget_endpoints: Callable[[], None],
) -> None:
    assert main(["push", labels, f"{s3}/labels"]) == 0
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with gate(Path(labels).parent) as web, gate(s3_server.port) as bucket:
        for server, url in (
            (web, f"http://labels.example.invalid/{Path(labels).name}"),
            (bucket, f"{s3}/labels"),
        ):
            for name in ("HTTP_PROXY", "http_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example.invalid")
            forget_endpoints()
            assert main(["pull", url, str(tmp_path / f"copy{server.server_port}")]) == 0
            assert any("example.invalid" in line for line in server.asked)


@pytest.mark.slow
def test_an_overlay_as_containers_have_it_gives_the_same_bytes(
    data: str, labels: str, tmp_path: Path
) -> None:
    for name in ("lower", "upper", "merged"):
        (tmp_path / name).mkdir()
    script = """
    cd "$1"; mount -t tmpfs tmpfs upper && mkdir upper/u upper/w || exit 77
    mount -t overlay overlay -o lowerdir=lower,upperdir=upper/u,workdir=upper/w merged || exit 77
    shift; "$@" && cp -r merged/out copy
    """
    flags = extract_flags(data, tmp_path / "merged" / "out")
    done = in_namespace(script, tmp_path, *PROGRAM, *flags)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "copy" / "c") == tree(Path(labels) / "c")

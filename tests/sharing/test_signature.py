"""Signatures: whoever changes the manifest, the statement, the key or an object is found, and named."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import extract_flags, new_key

from pipelines.cli import main
from teacher_cache.archive.format.signature import check_signatures, keys_in
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.exact.canonical import seal, unseal

WHO = ["--who", "Team A", "--image-license", "cc-by-4.0", "--teacher-license", "apache-2.0"]


@pytest.fixture
def signed(labels: str, key: Path, tmp_path: Path) -> Path:
    shutil.copytree(labels, tmp_path / "signed")
    assert main(["sign", str(tmp_path / "signed"), "--key", str(key), *WHO, "--gpu-hours", "2.5"]) == 0
    return tmp_path / "signed"


def problems(archive: Path, key: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    code = main(["verify", str(archive), "--key", str(key), "--json", *words])
    found = json.loads(capsys.readouterr().out)["problems"]
    assert code == bool(found)
    return found


def test_a_signed_archive_says_who_signed_what(
    signed: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problems(signed, key.with_suffix(".pub"), capsys) == []
    assert main(["verify", str(signed), "--key", str(key.with_suffix(".pub")), "--level", "full"]) == 0
    text = capsys.readouterr().out
    assert "signed by Team A on 20" in text
    assert "2.5 GPU hours; images cc-by-4.0, teacher apache-2.0" in text
    assert "no problems (full)" in text


def test_sha256sum_and_openssl_agree(signed: Path, key: Path, tmp_path: Path) -> None:
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=signed, check=True)
    listed = {line.split("  ")[1] for line in (signed / "SHA256SUMS").read_text().splitlines()}
    files = {str(file.relative_to(signed)) for file in signed.rglob("*") if file.is_file()}
    assert listed == files - {"SHA256SUMS"}
    (statement,) = (signed / "signatures").glob("*.json")
    (tmp_path / "message").write_bytes(statement.read_bytes() + (signed / "manifest.json").read_bytes())
    pem = subprocess.run(
        ["ssh-keygen", "-e", "-m", "PKCS8", "-f", key.with_suffix(".pub")], capture_output=True, check=False
    ).stdout
    if b"BEGIN PUBLIC KEY" not in pem:  # older ssh-keygen does not convert ed25519
        from cryptography.hazmat.primitives import serialization

        (public,) = keys_in(key.with_suffix(".pub").read_text(), "keys").values()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "key.pem", "-rawin"]
    command += ["-in", tmp_path / "message", "-sigfile", statement.with_suffix(".sig")]
    assert "Successfully" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert list(keys_in((tmp_path / "key.pem").read_text(), "keys")) == [statement.stem]


def _reseal(file: Path, change: Callable[[dict], object]) -> None:
    document = unseal(file.read_bytes())
    change(document)
    file.write_bytes(seal(document))


def _statement(archive: Path) -> Path:
    return next((archive / "signatures").glob("*.json"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda a: _reseal(_statement(a), lambda d: d["statement"].update(who="Team B")),
            "the statement or its signature was changed",
        ),
        (lambda a: _statement(a).write_bytes(_statement(a).read_bytes()[:-9]), "json was changed"),
        (
            lambda a: _reseal(_statement(a), lambda d: d["statement"].update(gpu_hours=-1)),
            "json was changed",
        ),
        (
            lambda a: _statement(a).with_suffix(".sig").write_bytes(bytes(64)),
            "the statement or its signature was changed",
        ),
        (lambda a: _statement(a).with_suffix(".sig").unlink(), "has no signature beside it"),
        (
            lambda a: _reseal(_statement(a), lambda d: d["statement"].update(public_key="0" * 64)),
            "names another key than the pinned one",
        ),
        (
            lambda a: _reseal(a / "manifest.json", lambda d: (d["units"].pop(), d.update(views=[[0, 2]]))),
            "manifest.json is not the one",
        ),
    ],
    ids=[
        "statement",
        "cut statement",
        "impossible statement",
        "signature",
        "no signature",
        "key",
        "manifest",
    ],
)
def test_what_was_changed_is_named(
    change: Callable[[Path], object], says: str, signed: Path, key: Path
) -> None:
    change(signed)
    reader = ArchiveReader(str(signed))
    found = check_signatures(
        reader.store, reader.manifest, keys_in(key.with_suffix(".pub").read_text(), "keys")
    )
    assert found.valid == []
    assert len(found.problems) == 1
    assert says in found.problems[0]


def test_a_changed_object_is_named(signed: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = signed / "labels.zarr" / "tail" / "c" / "1" / "0"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = problems(signed, key.with_suffix(".pub"), capsys, "--level", "full")
    assert [line for line in found if "labels.zarr/tail/c/1/0" in line]


def test_a_signature_of_another_archive_is_refused(
    signed: Path, data: str, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main(extract_flags(data, other, topk=1, views="0:2")) == 0
    shutil.copytree(signed / "signatures", other / "signatures")
    (problem,) = problems(other, key.with_suffix(".pub"), capsys)
    assert "is about another archive" in problem


def test_only_pinned_keys_count(signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = new_key(tmp_path, "stranger")
    (problem,) = problems(signed, stranger.with_suffix(".pub"), capsys)
    assert "no signature by any of the 1 pinned keys; it is signed by" in problem
    assert main(["sign", str(signed), "--key", str(stranger), "--who", "Team S"]) == 0
    both = tmp_path / "pinned"
    both.write_bytes(
        b"# teams\n" + b"".join((tmp_path / f"{name}.pub").read_bytes() for name in ("key", "stranger"))
    )
    assert problems(signed, both, capsys) == []


@pytest.mark.parametrize(
    "text", ["", "ssh-rsa AAAA", "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"]
)
def test_a_file_without_keys_is_refused(
    text: str, signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").write_text(text)
    assert main(["verify", str(signed), "--key", str(tmp_path / "bad")]) == 2
    assert main(["sign", str(signed), "--key", str(tmp_path / "bad"), "--who", "x"]) == 2
    assert "ssh-keygen -t ed25519" in capsys.readouterr().err


def test_a_pulled_part_keeps_its_signature(
    signed: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", str(signed), str(tmp_path / "part"), "--shards", "0:2"]) == 0
    assert problems(tmp_path / "part", key.with_suffix(".pub"), capsys, "--level", "full") == []
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "part", check=True)

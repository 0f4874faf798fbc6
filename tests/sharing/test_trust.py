"""Keys where labels are used: what is checked is what is read, and older versions are refused."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pickle
import shutil
from pathlib import Path

import pytest
from gates import Gate, gate
from support import extract_flags, new_key

import teacher_cache
from pipelines.cli import main
from student.cli import main as student_main
from teacher_cache.archive.format.signature import private_key, sign
from teacher_cache.archive.format.trust import Trust, trust_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.writers.merge import merge
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.exact.canonical import seal, sha256_hex, unseal
from teacher_cache.program.progress import silent
from teacher_cache.sharing.sums import put_sums
from teacher_cache.storage.store import Store

Capture = pytest.CaptureFixture[str]
ABOUT = {"who": "Team A", "made_with": "", "device": "", "gpu_hours": None}
ABOUT |= {"image_license": "", "teacher_license": ""}


@pytest.fixture
def signed(labels: str, key: Path, tmp_path: Path) -> Path:
    shutil.copytree(labels, tmp_path / "signed")
    assert main(["sign", str(tmp_path / "signed"), "--key", str(key), "--who", "Team A"]) == 0
    return tmp_path / "signed"


def sign_on(archive: Path, key: Path, day: int) -> None:
    """Sign an archive on a day of January 2027."""
    store = Store(archive)
    when = datetime.datetime(2027, 1, day, tzinfo=datetime.UTC).isoformat()
    reader = ArchiveReader(str(archive))
    sign(store, reader.manifest, private_key(key), {**ABOUT, "when": when})
    put_sums(reader, store)


def test_every_command_that_uses_labels_takes_a_key(
    labels: str, signed: Path, key: Path, data: str, tmp_path: Path, capsys: Capture
) -> None:
    public, out = f"{key}.pub", str(tmp_path / "out")
    train = ["--data", data, "--output", out, "--distillation", "soft"]
    train += ["--dry-run", "--batch-size", "8"]
    commands = {
        "pull": lambda url: main(["pull", url, out, "--key", public]),
        "merge": lambda url: main(["merge", out, url, "--key", public]),
        "export": lambda url: main(["export", url, out, "--data", data, "--key", public]),
        "extends": lambda url: main(
            ["plan", *extract_flags(data, out, views="0:3")[1:], "--extends", url, "--key", public]
        ),
        "verify": lambda url: main(["verify", url, "--key", public]),
        "train": lambda url: student_main(["train", "--labels", url, *train, "--key", public]),
    }
    for name, run in commands.items():
        assert run(labels) == (1 if name == "verify" else 2), name
        assert "no signature by any of the 1 pinned keys" in "".join(capsys.readouterr()), name
        assert not list(Path(out).glob("**/c/**")), name
        assert run(str(signed)) == 0, (name, capsys.readouterr())
        shutil.rmtree(out, ignore_errors=True)


def test_keys_in_python(labels: str, signed: Path, key: Path, data: str) -> None:
    public = f"{key}.pub"
    assert teacher_cache.open_labels(signed, key=public).views
    with pytest.raises(ArchiveError, match="is not validly signed: no signature"):
        teacher_cache.open_labels(labels, key=public)
    views = teacher_cache.LabelledViews(data, signed, batch_size=4, key=public)
    assert len(next(views.epoch(0)).rows_B) == 4
    with pytest.raises(ArchiveError, match="is not validly signed"):
        teacher_cache.LabelledViews(data, [signed, labels], batch_size=4, key=public)
    with pytest.raises(InputError, match="labels that are open already"):
        teacher_cache.LabelledViews(data, teacher_cache.open_labels(labels), batch_size=4, key=public)
    with pytest.raises(InputError, match="cannot be used: Unsupported key type"):
        teacher_cache.open_labels(signed, key=__file__)


def test_a_process_that_opens_the_labels_again_checks_them_again(signed: Path, key: Path) -> None:
    reader = teacher_cache.open_labels(signed, key=f"{key}.pub")
    sent = pickle.dumps(reader)
    assert pickle.loads(sent).fingerprint == reader.fingerprint
    shutil.rmtree(signed / "signatures")
    with pytest.raises(ArchiveError, match="is not validly signed"):
        pickle.loads(sent)


class TwoFaced(Gate):
    """Server that gives a forged manifest to the first requests for it, and the signed one to later ones."""

    forged, num_forged = b"", 0

    def fetch(self, request, path, body):  # type: ignore[no-untyped-def]
        if path.endswith("/manifest.json") and request.command == "GET" and self.num_forged > 0:
            self.num_forged -= 1
            return 200, {"Content-Length": str(len(self.forged))}, self.forged
        return super().fetch(request, path, body)


@pytest.mark.parametrize("num_forged", [1, 2, 3])
@pytest.mark.parametrize("command", ["verify", "pull", "extends", "catalog"])
def test_what_is_checked_is_what_is_read(
    signed: Path,
    key: Path,
    data: str,
    tmp_path: Path,
    command: str,
    num_forged: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["catalog", str(tmp_path)]) == 0
    document = unseal((signed / "manifest.json").read_bytes())
    document["spec"]["made_with"]["numpy"] = "forged"
    monkeypatch.setattr("gates.Gate", TwoFaced)
    with gate(tmp_path) as server:
        assert isinstance(server, TwoFaced)
        server.forged = seal(document)
        server.num_forged = num_forged
        root, out, public = f"http://127.0.0.1:{server.server_port}", str(tmp_path / "out"), f"{key}.pub"
        flags = extract_flags(data, out)
        words = {
            "verify": ["verify", f"{root}/signed", "--level", "full", "--key", public],
            "pull": ["pull", f"{root}/signed", out, "--key", public],
            "extends": ["plan", *flags[1:], "--extends", f"{root}/signed", "--key", public],
            "catalog": [*flags, "--catalog", root, "--catalog-key", public],
        }[command]
        assert main(words) in (1, 2)
        assert not list(Path(out).glob("**/labels.zarr/*/c/**"))


def test_an_older_signed_version_is_refused(signed: Path, key: Path, tmp_path: Path, capsys: Capture) -> None:
    sign_on(signed, key, 2)
    older = shutil.copytree(signed, tmp_path / "older")
    sign_on(signed, key, 9)
    words = ["verify", str(signed), "--key", f"{key}.pub"]
    assert main(words) == 0
    shutil.rmtree(signed)
    older.rename(signed)
    assert main(words) == 1
    assert "was replaced by an older version, signed on 2027-01-02" in capsys.readouterr().out
    with pytest.raises(ArchiveError, match="2027-01-09") as refusal:
        teacher_cache.open_labels(signed, key=f"{key}.pub")
    Path(refusal.value.value.rpartition(": ")[2]).unlink()
    assert main(words) == 0


def test_a_home_that_may_not_be_written_is_said(signed: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trust = dataclasses.replace(trust_of(f"{key}.pub"), seen=str(tmp_path / "file" / "seen"))
    with pytest.warns(UserWarning, match="an older version of .* would not be noticed"):
        assert trust.manifest(Store(signed))


def test_a_version_with_two_signatures_is_not_newer(
    signed: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new_key(tmp_path, "other")
    both = tmp_path / "both.pub"
    both.write_text(Path(f"{key}.pub").read_text() + Path(f"{other}.pub").read_text())
    sign_on(signed, key, 2)
    sign_on(signed, other, 3)
    older = shutil.copytree(signed, tmp_path / "older")
    sign_on(signed, key, 9)
    trust = trust_of(both)
    assert trust.manifest(Store(signed))
    shutil.rmtree(signed)
    older.rename(signed)
    monkeypatch.chdir(tmp_path)
    for spelling in (str(signed), f"{signed}/", f"file://{signed}", "signed"):
        with pytest.raises(ArchiveError, match="2027-01-09"):
            trust.manifest(Store(signed), spelling)


def test_pins_hold_for_every_spelling(key: Path, tmp_path: Path) -> None:
    own = tmp_path / ".config" / "teacher-cache" / "keys"
    own.parent.mkdir(parents=True)
    line = Path(f"{key}.pub").read_text()
    own.write_text(f"hf://datasets/acme/labels {line}s3://labels/acme {line}")
    trust = trust_of(environment={"HOME": str(tmp_path)})
    for url in ("@main", "@v1.0/a", "/a", f"@{'0' * 40}"):
        assert trust.demands(f"hf://datasets/acme/labels{url}"), url
    assert trust.demands("s3a://labels/acme/x/")
    assert not trust.demands("hf://datasets/acme/labels-2@main")


def test_one_version_can_be_demanded(labels: str, tmp_path: Path, capsys: Capture) -> None:
    digest = sha256_hex(Path(labels, "manifest.json").read_bytes())
    assert main(["pull", labels, str(tmp_path / "a"), "--manifest", "0" * 64, digest]) == 0
    assert main(["pull", labels, str(tmp_path / "b"), "--manifest", "0" * 64]) == 2
    assert f"has manifest {digest}, not {'0' * 64}" in capsys.readouterr().err
    assert main(["pull", labels, str(tmp_path / "b"), "--manifest", "abc"]) == 2
    assert not (tmp_path / "b").exists()


def test_the_users_own_file_pins_keys_to_places(labels: str, signed: Path, key: Path, tmp_path: Path) -> None:
    own = tmp_path / "config" / "teacher-cache" / "keys"
    own.parent.mkdir(parents=True)
    line = Path(f"{key}.pub").read_text()
    own.write_text(f"# acme\n\n{tmp_path} {line}s3://labels/acme/ {line}")
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}
    trust = trust_of(environment=environment)
    assert [pinned.place for pinned in trust.pinned] == [str(tmp_path), "s3://labels/acme"]
    assert trust.manifest(Store(labels))
    assert trust.manifest(Store(signed))
    shutil.copytree(labels, tmp_path / "unsigned")
    with pytest.raises(ArchiveError, match="is not validly signed"):
        trust.manifest(Store(tmp_path / "unsigned"))
    assert trust.demands("s3://labels/acme/imagenet")
    assert not trust.demands("s3://labels/acme-2")
    own.write_text(f"{tmp_path} ssh-ed25519 nonsense\n")
    with pytest.raises(InputError, match="cannot be used"):
        trust_of(environment=environment)


def test_labels_that_cannot_be_signed_are_refused(labels: str, key: Path, data: str, tmp_path: Path) -> None:
    assert main(["export", labels, str(tmp_path / "tars"), "--data", data]) == 0
    with pytest.raises(ArchiveError, match="is an export, which has no signature"):
        teacher_cache.open_labels(tmp_path / "tars", key=f"{key}.pub")
    assert teacher_cache.open_labels(tmp_path / "tars").views
    with pytest.raises(ArchiveError, match="which has no signature"):
        Trust(manifests=("0" * 64,)).refuse_unsigned("x", "an archive that a job is filling")


def test_a_part_is_called_a_part(labels: str, tmp_path: Path, capsys: Capture) -> None:
    part = str(tmp_path / "part")
    assert main(["pull", labels, part, "--shards", "0:1"]) == 0
    capsys.readouterr()
    for level in ("quick", "full"):
        assert main(["verify", part, "--level", level]) == 0
        assert f"{part} is a part: 2 of the archive's 10 units are here" in capsys.readouterr().out
    assert main(["verify", part, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["part"] == {"units": 2, "of": 10}


def test_nothing_damaged_is_signed(labels: str, key: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(labels, tmp_path / "copy")
    (copy / "labels.zarr/tail/c/2/0").write_bytes(b"x")
    assert main(["sign", str(copy), "--key", str(key), "--who", "Team A"]) == 2
    assert "labels.zarr/tail/c/2/0 has 1 of" in capsys.readouterr().err
    assert not (copy / "signatures").exists()


def test_conditions_hold_for_every_source_of_a_merge(
    labels: str, signed: Path, key: Path, tmp_path: Path
) -> None:
    trust = dataclasses.replace(trust_of(f"{key}.pub"), seen=None)
    assert not (tmp_path / "state").exists()
    assert merge([ArchiveReader(str(signed), trust=trust)], Store(tmp_path / "out"), silent) == []
    with pytest.raises(ArchiveError):
        ArchiveReader(labels, trust=trust)

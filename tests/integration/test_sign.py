"""A manifest is signed by ssh-keygen or minisign; a changed row is named by whoever has the public key."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from lading.testing.s3_server import Server
from lading.verification.manifest import manifest_lines
from tests.buckets import Bucket
from tests.conftest import need_program


def make_key(place: Path, name: str = "key") -> Path:
    need_program("ssh-keygen")
    made = place / name
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a release manager", "-f", str(made)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return made


@pytest.fixture
def signed(tmp_path: Path, s3: Server, bucket: str) -> Bucket:
    s3.make_bucket(bucket)
    made = Bucket(tmp_path / "here", s3, bucket)
    made.directory.mkdir()
    made.fill(30)
    key = make_key(tmp_path)
    done = made.run("sign", "--key", str(key))
    assert "manifest.jsonl.zst.signed.sig" in done.stdout
    return made


def verify(made: Bucket, code: int, key: str = "../key.pub", where: str = "manifest.jsonl.zst") -> str:
    done = made.run("verify", "--manifest", where, "--key", key, "--endpoint-url", made.server.endpoint, code=code)
    return done.stderr


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Edit the lines of a manifest by hand, the end record as it was."""
    lines = change(list(manifest_lines(path)))
    path.write_bytes(zstandard.compress(b"".join(lines)))


def test_a_signed_manifest_is_believed(signed: Bucket, tmp_path: Path, make: Any) -> None:
    assert verify(signed, 0) == ""
    stranger = make_key(tmp_path, "stranger")
    assert "its signature is not of the key" in verify(signed, 4, f"{stranger}.pub")
    assert "is a private key; give the public one" in verify(signed, 2, "../key")
    done = make("verify", cwd=signed.directory, manifest="manifest.jsonl.zst", key="../key.pub")
    assert done.returncode == 0, done.stderr
    (signed.directory / "manifest.jsonl.zst.signed").unlink()
    assert "make sign key=KEY" in verify(signed, 2)
    assert make("sign", cwd=signed.directory, key="../key").returncode == 0
    assert verify(signed, 0) == ""


def test_a_signature_of_an_earlier_manifest_is_not_published(signed: Bucket) -> None:
    """Whoever checked it would be told that the manifest was forged."""
    statement = signed.directory / "manifest.jsonl.zst.signed"
    signed.run("publish")
    signed.rows[7] = replace(signed.rows[7], sha256="0" * 64)
    signed.write()
    said = signed.run("publish", code=4).stderr
    assert "manifest.jsonl.zst.signed is of an earlier manifest; sign this one: make sign key=KEY" in said
    other = statement.with_name(statement.name + ".minisig")
    other.write_bytes(b"of the earlier statement")
    signed.run("sign", "--key", "../key")
    assert not other.exists()
    other.write_bytes(b"of this statement")
    signed.run("sign", "--key", "../key")
    assert other.exists()
    signed.run("publish")


def test_a_changed_row_is_named(signed: Bucket) -> None:
    """Also where the end record was made right again."""
    before = signed.rows[7]
    signed.rows[7] = replace(before, sha256="0" * 64)
    signed.write()
    said = verify(signed, 4)
    assert "it is another one than was signed" in said
    assert f"changed or added: 1: line 9 ({before.key}); of the signed rows 1 are gone or changed" in said
    signed.rows[7] = before
    del signed.rows[3]
    signed.write()
    assert "none was changed; of the signed rows 1 are gone or changed" in verify(signed, 4)


def test_an_edited_manifest_is_refused_and_its_row_named(signed: Bucket) -> None:
    key = signed.rows[5].key

    def change(lines: list[bytes]) -> list[bytes]:
        return [line.replace(b'"size":100', b'"size":101') if key.encode() in line else line for line in lines]

    rewrite(signed.manifest, change)
    said = verify(signed, 4)
    assert "it does not match its end record" in said
    assert f"line 7 ({key})" in said


@pytest.mark.parametrize("ending", [".signed", ".signed.sig", ".rows"])
def test_what_was_signed_cannot_be_exchanged(signed: Bucket, ending: str) -> None:
    path = signed.directory / f"manifest.jsonl.zst{ending}"
    content = path.read_bytes()
    path.write_bytes(content.replace(content[20:24], b"AAAA"))
    signed.rows[7] = replace(signed.rows[7], sha256="0" * 64)
    signed.write()
    said = verify(signed, 4)
    assert (
        "list of rows beside it was changed too" if ending == ".rows" else "its signature is not of the key"
    ) in said


def test_a_signed_manifest_at_an_address(signed: Bucket) -> None:
    place = signed.path("about")
    place.mkdir()
    for path in list(signed.directory.iterdir()):
        shutil.move(path, place / path.name)
    assert verify(signed, 0, where=f"s3://{signed.name}/about/manifest.jsonl.zst") == ""
    assert not list(signed.directory.iterdir())


def test_keys_that_are_none(signed: Bucket, tmp_path: Path) -> None:
    (tmp_path / "no.pub").write_text("hello\n")
    assert "neither of ssh" in verify(signed, 2, "../no.pub")
    assert "cannot be read" in verify(signed, 2, "../absent.pub")
    (tmp_path / "mini.pub").write_text("untrusted comment: minisign public key\nRWQ\n")
    said = verify(signed, 2, "../mini.pub")
    assert "minisig" in said  # the program, or the signature that it would need


def test_minisign(signed: Bucket, tmp_path: Path) -> None:
    """By the real tool where it is installed."""
    need_program("minisign")
    words = ["minisign", "-G", "-W", "-p", str(tmp_path / "m.pub"), "-s", str(tmp_path / "m.key")]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    signed.run("sign", "--key", str(tmp_path / "m.key"))
    assert verify(signed, 0, "../m.pub") == ""

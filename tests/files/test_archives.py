"""Archives that mean no harm are unpacked; those that do are refused, whole."""

from __future__ import annotations

import io
import random
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from lingbot_eval.errors import DataError, DependencyError, StoreError
from lingbot_eval.files import archives
from lingbot_eval.files.archives import ARCHIVES, ArchiveKind, inner_path, unpack, unpacked_limit

FILES = {"scene/rgb/0.png": b"picture" * 5000, "scene/poses.txt": b"1 2 3\n", "scene/empty": b"", "other/x": b"x"}


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            add(archive, name, content)


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **entry: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in entry.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def write_7z(path: Path, files: dict[str, bytes]) -> None:
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(content, name)


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], None]] = {
    "a.zip": write_zip,
    "a.tgz": write_tar,
    "a.tar": lambda path, files: write_tar(path, files, "w"),
    "a.tar.bz2": lambda path, files: write_tar(path, files, "w:bz2"),
    "a.tar.xz": lambda path, files: write_tar(path, files, "w:xz"),
    "a.7z": write_7z,
}


def kind_of(name: str) -> ArchiveKind:
    return ARCHIVES[name[1:]]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def everything(path: PurePosixPath) -> PurePosixPath:
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / "inner"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_is_unpacked_to_the_same_files(tmp_path: Path, out: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, FILES)
    told: list[int] = []
    wanted = {key: value for key, value in FILES.items() if key.startswith("scene")}

    def place(path: PurePosixPath) -> PurePosixPath | None:
        return path if path.parts[0] == "scene" else None

    size = unpack(tmp_path / name, kind_of(name), out, place, each=told.append)
    assert tree(out) == wanted
    assert size == sum(told) == sum(map(len, wanted.values()))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damage_is_one_line(tmp_path: Path, out: Path, name: str, damage: str) -> None:
    """In a plain tar that is cut inside its last file; a flipped bit of it nobody can know."""
    WRITERS[name](tmp_path / name, {"scene/rgb.png": bytes(range(256)) * 200})
    content = bytearray((tmp_path / name).read_bytes())
    middle = len(content) // 2
    if damage == "flipped":
        content[middle] ^= 0xFF
    (tmp_path / name).write_bytes(content[:middle] if damage == "cut" else content)
    if (name, damage) == ("a.tar", "flipped"):
        unpack(tmp_path / name, kind_of(name), out, everything)
        return
    with pytest.raises(DataError, match=r"damaged \w+ archive \(.*\); fetch it again") as refusal:
        unpack(tmp_path / name, kind_of(name), out, everything)
    assert "\n" not in str(refusal.value)


def test_a_zip_with_sizes_of_64_bits_is_read(tmp_path: Path, out: Path) -> None:
    """As archives of more than 4 GiB are written; each entry says so for itself."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in FILES.items():
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(content)
    assert unpack(tmp_path / "a.zip", "zip", out, everything) == sum(map(len, FILES.values()))
    assert tree(out) == FILES


def test_a_tar_does_not_end_at_a_damaged_header(tmp_path: Path, out: Path) -> None:
    write_tar(tmp_path / "a.tar", {"scene/a": b"a" * 512, "scene/b": b"b" * 50_000}, "w")
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[1024] ^= 0xFF  # the first letter of the second name
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match="damaged tar archive"):
        unpack(tmp_path / "a.tar", "tar", out, everything)


def hostile_tar(**entry: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            add(archive, "scene/fine", b"fine")
            add(archive, str(entry.get("name", "scene/bad")), **{k: v for k, v in entry.items() if k != "name"})

    return write


def hostile_zip(name: str, mode: int = 0, content: bytes = b"bad") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("scene/fine", b"fine")
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)

    return write


def locked_zip(path: Path) -> None:
    hostile_zip("scene/secret")(path)
    content = path.read_bytes()
    # The flag of a password, in the file's own header and in the directory.
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.rindex(magic) + at
        content = content[:place] + b"\x01\x00" + content[place + 2 :]
    path.write_bytes(content)


def huge_header(path: Path) -> None:
    """A name of 40 MB, which the reader of the archive would hold in memory."""
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "scene/" + "a" * 40_000_000)


def seven_link(path: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    (path.parent / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.write(path.parent / "link", "scene/link")


HOSTILE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "tar climbs": ("a.tgz", hostile_tar(name="scene/../../bad"), "expected a path below the folder"),
    "tar absolute": ("a.tgz", hostile_tar(name="/tmp/bad"), "expected a path below the folder"),
    "tar symlink": ("a.tgz", hostile_tar(type=tarfile.SYMTYPE, linkname="/etc"), "is a link, expected a file"),
    "tar hard link": ("a.tgz", hostile_tar(type=tarfile.LNKTYPE, linkname="scene/fine"), "is a link, expected a file"),
    "tar device": ("a.tgz", hostile_tar(type=tarfile.CHRTYPE), "is a device, expected a file"),
    "tar pipe": ("a.tgz", hostile_tar(type=tarfile.FIFOTYPE), "is a device, expected a file"),
    "tar twice": ("a.tgz", hostile_tar(name="scene/fine"), "is in it twice"),
    "tar case": ("a.tgz", hostile_tar(name="scene/FINE"), "differ in case alone"),
    "tar below a file": ("a.tgz", hostile_tar(name="scene/fine/x"), "is a file and a folder"),
    "tar control": ("a.tgz", hostile_tar(name="scene/\x1b[2J"), "expected a name that every system can show"),
    "tar header": ("a.tgz", huge_header, "its headers are larger than any archive's"),
    "zip climbs": ("a.zip", hostile_zip("../bad"), "expected a path below the folder"),
    "zip climbs by backslashes": ("a.zip", hostile_zip("scene\\..\\..\\bad"), "expected a path below the folder"),
    "zip drive": ("a.zip", hostile_zip("C:\\bad"), "expected a path below the folder"),
    "zip absolute": ("a.zip", hostile_zip("/tmp/bad"), "expected a path below the folder"),
    "zip symlink": ("a.zip", hostile_zip("scene/bad", stat.S_IFLNK | 0o777, b"/etc"), "is a link or device"),
    "zip device": ("a.zip", hostile_zip("scene/bad", stat.S_IFCHR | 0o666), "is a link or device, expected a file"),
    "zip pipe": ("a.zip", hostile_zip("scene/bad", stat.S_IFIFO | 0o666), "is a link or device, expected a file"),
    "zip case": ("a.zip", hostile_zip("Scene/other"), "differ in case alone"),
    "zip password": ("a.zip", locked_zip, "is under a password"),
    "zip bomb": ("a.zip", hostile_zip("scene/bomb", content=bytes(80_000_000)), "it unpacks to more than"),
    "7z link": ("a.7z", seven_link, "is a link or device, expected a file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_could_harm_is_refused(tmp_path: Path, out: Path, name: str) -> None:
    file, write, says = HOSTILE[name]
    write(tmp_path / file)
    with pytest.raises(DataError) as refusal:
        unpack(tmp_path / file, kind_of(file), out, everything)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in out.parent.iterdir()] == ["inner"]
    assert set(tree(out)) <= {"scene/fine"}


def test_a_header_that_tells_less_than_comes_is_refused(tmp_path: Path, out: Path) -> None:
    write_zip(tmp_path / "a.zip", {"scene/x": bytes(1000)})
    with pytest.raises(DataError, match="unpacks to more than 500 bytes"):
        unpack(tmp_path / "a.zip", "zip", out, everything, limit=500)
    content = (tmp_path / "a.zip").read_bytes().replace((1000).to_bytes(4, "little"), (400).to_bytes(4, "little"))
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged zip|unpacks to more"):
        unpack(tmp_path / "a.zip", "zip", out, everything, limit=500)


def test_later_files_of_a_7z_are_held_to_the_same(tmp_path: Path, out: Path) -> None:
    """What is added to one later is a block of its own, which is read beside the first."""
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writestr(b"a" * 100_000, "scene/a")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "a") as archive:
        archive.writestr(bytes(range(256)) * 400, "scene/b")
    unpack(tmp_path / "a.7z", "7z", out, everything)
    assert {name: len(content) for name, content in tree(out).items()} == {"scene/a": 100_000, "scene/b": 102_400}
    with pytest.raises(DataError, match="unpacks to more than 150,000 bytes"):
        unpack(tmp_path / "a.7z", "7z", out, everything, limit=150_000)
    content = bytearray((tmp_path / "a.7z").read_bytes())
    content[200] ^= 0xFF
    (tmp_path / "a.7z").write_bytes(content)
    with pytest.raises(DataError, match="damaged 7z archive"):
        unpack(tmp_path / "a.7z", "7z", out, everything)


def test_headers_of_a_tar_have_room_for_each_file_anew(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files it has: 60 of them take 30,720 bytes of headers, and 30,720 of their own blocks."""
    assert archives._MAX_HEADERS == 2 * 2**20
    monkeypatch.setattr(archives, "_MAX_HEADERS", 20_480)
    files = {f"scene/{number}": b"x" for number in range(60)}
    write_tar(tmp_path / "a.tar", files, "w")
    assert unpack(tmp_path / "a.tar", "tar", out, everything) == 60
    assert tree(out) == files


def test_modes_of_an_archive_count_for_nothing(tmp_path: Path, out: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, ".", type=tarfile.DIRTYPE)
        add(archive, "./scene", type=tarfile.DIRTYPE, mode=0)
        add(archive, "./scene/run", b"#!/bin/sh", mode=0o4777, uid=0, mtime=0)
        add(archive, "./scene/none", b"x", mode=0)
    unpack(tmp_path / "a.tar", "tar", out, everything)
    assert tree(out) == {"scene/run": b"#!/bin/sh", "scene/none": b"x"}
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o7111 for path in (out / "scene").iterdir()}
    assert modes == {0}


def test_what_systems_leave_in_archives_is_passed_over(tmp_path: Path, out: Path) -> None:
    """The dataset's own archives hold Thumbs.db, some of them damaged."""
    names = ("scene/seq/Thumbs.db", "__MACOSX/scene/._x", "scene/.DS_Store", "desktop.ini", "scene\\back\\slash.txt")
    write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"0123456789"))
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content)
    unpack(tmp_path / "a.zip", "zip", out, everything)
    assert tree(out) == {"scene/back/slash.txt": b"0123456789"}


def test_empty_folders_of_a_7z_are_made(tmp_path: Path, out: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    (tmp_path / "scene" / "empty").mkdir(parents=True)
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writeall(tmp_path / "scene", "scene")
    unpack(tmp_path / "a.7z", "7z", out, everything)
    assert (out / "scene" / "empty").is_dir()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("A/x/1", "a/y/2"), "'a' and 'A' differ in case alone"),
        (("s/Rgb/left/0.png", "s/rgb/right/0.png"), "'s/rgb' and 's/Rgb' differ in case alone"),
        (("A/x/1", "a/"), "'a' and 'A' differ in case alone"),
        (("Caf\u00e9/1", "Cafe\u0301/2"), "differ in case alone"),  # composed and not: one name on some systems
        (("Stra\u00dfe/1", "STRASSE/2"), "differ in case alone"),
        (("a/b", "a/b/c"), "'a/b' is a file and a folder"),
        (("a/b/c", "a/b"), "'a/b' is in it twice"),
        (("a/b/", "a/b"), "'a/b' is in it twice"),
        (("a/x/1", "a/y/1", "b/x/1", "a/", "empty/inner/"), ""),
        (("./", "./a/x", "a/./y"), ""),
        (("a\\", "a\\x", "empty\\inner\\"), ""),  # as some programs on Windows write
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_would_fall_together_are_refused_at_every_depth(
    tmp_path: Path, out: Path, kind: ArchiveKind, names: tuple[str, ...], says: str
) -> None:
    if kind == "zip":
        write_zip(tmp_path / "a", dict.fromkeys(names, b""))
    else:
        with tarfile.open(tmp_path / "a", "w") as archive:
            for name in names:
                add(archive, name, type=tarfile.DIRTYPE if name[-1] in "/\\" else tarfile.REGTYPE)
    if not says:
        unpack(tmp_path / "a", kind, out, everything)
        assert set(tree(out)) == {
            str(PurePosixPath(name.replace("\\", "/"))) for name in names if name[-1] not in "/\\"
        }
        assert (out / "empty" / "inner").is_dir() == any(name.startswith("empty") for name in names)
        return
    with pytest.raises(DataError) as refusal:
        unpack(tmp_path / "a", kind, out, everything)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["", "/", "..", "a/../b", "a//b", "\\\\host\\x", "c:x", "a\n", "a" * 300, "\u00e9" * 128, "\ud800"]
)
def test_names_that_lead_nowhere_good(name: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        inner_path(name)
    assert inner_path("./a/b\\c/") == PurePosixPath("a/b/c")
    assert inner_path(f"{'a' * 255}/{'e' * 255}").parts == ("a" * 255, "e" * 255)


def test_kinds_go_by_the_ends_of_names() -> None:
    assert ARCHIVES == {
        ".zip": "zip",
        ".7z": "7z",
        ".tar": "tar",
        ".tgz": "tar",
        ".tar.gz": "tar",
        ".tbz2": "tar",
        ".tar.bz2": "tar",
        ".txz": "tar",
        ".tar.xz": "tar",
    }


def test_what_an_archive_may_unpack_to_grows_with_its_size(tmp_path: Path, out: Path) -> None:
    """64 MiB of any archive, and fifty times its own size: depth maps that are mostly empty shrink to an eleventh."""
    assert unpacked_limit(0) == 64 * 2**20
    assert unpacked_limit(10**9) == 50 * 10**9 + 64 * 2**20
    content = random.Random(0).randbytes(1_000_000)
    # 1 MB that does not shrink, and 100 MB that do: 51 times as much, which is fine in an archive of its size.
    write_zip(tmp_path / "a.zip", {"scene/random": content, "scene/zeros": bytes(100_000_000)})
    assert unpack(tmp_path / "a.zip", "zip", out, everything) == 101_000_000


def test_an_archive_of_too_many_entries_is_refused(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert archives._MAX_ENTRIES == 2_000_000
    monkeypatch.setattr(archives, "_MAX_ENTRIES", 4)
    write_zip(tmp_path / "a.zip", FILES)
    unpack(tmp_path / "a.zip", "zip", out, everything)
    write_zip(tmp_path / "a.zip", {**FILES, "other/y": b""})
    # Those that are left out count: it is their number that takes the time.
    with pytest.raises(DataError, match=r"it has more than 4 entries; it is not the archive that the card describes"):
        unpack(tmp_path / "a.zip", "zip", out, lambda path: None)


def test_a_7z_under_a_password_is_refused(tmp_path: Path, out: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w", password="word") as archive:
        archive.writestr(b"secret", "scene/x")
    with pytest.raises(DataError, match=r"refused: it is under a password"):
        unpack(tmp_path / "a.7z", "7z", out, everything)
    assert not tree(out)


def test_a_disk_that_refuses_is_one_line(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "a.zip", {"scene/x": b"x" * 10, "file/y": b"y"})
    (out / "file").write_bytes(b"in the way of a folder")
    with pytest.raises(StoreError, match=r"cannot write .*/file: .*; free space or choose another folder"):
        unpack(tmp_path / "a.zip", "zip", out, everything)
    (out / "scene" / "x").unlink()
    (out / "scene" / "x").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*scene/x: "):
        unpack(tmp_path / "a.zip", "zip", out, everything)


def test_a_tar_is_held_to_what_it_announced_as_a_whole(tmp_path: Path, out: Path) -> None:
    write_tar(tmp_path / "a.tgz", {"scene/x": bytes(300), "scene/y": bytes(300)})
    with pytest.raises(DataError, match="it unpacks to more than 599 bytes"):
        unpack(tmp_path / "a.tgz", "tar", out, everything, limit=599)
    assert tree(out) == {"scene/x": bytes(300)}  # of what would be too much nothing is begun
    with pytest.raises(DataError, match="it unpacks to more than 0 bytes"):
        unpack(tmp_path / "a.tgz", "tar", out, everything, limit=0)
    assert unpack(tmp_path / "a.tgz", "tar", out, everything, limit=600) == 600


def test_without_py7zr_it_says_what_to_install(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.7z").write_bytes(b"7z")
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(DependencyError, match=r"a\.7z: needs py7zr; pip install 'lingbot-eval\[fetch\]'"):
        unpack(tmp_path / "a.7z", "7z", out, everything)

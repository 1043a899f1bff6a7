"""A listing leaves nothing out in silence: it counts the files, or refuses the path."""

from __future__ import annotations

import http.server
import os
import socket
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemma_batch.errors import InputError, StorageError
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.listing import covers, expand
from tests.faults.proxy import aws_answer

if TYPE_CHECKING:
    from tests.conftest import S3Server

NFC = unicodedata.normalize("NFC", "données")
NFD = unicodedata.normalize("NFD", "données")


def names(place: str, pattern: str, output: str = "") -> tuple[list[str], dict[str, int]]:
    """The files of a pattern below the place, and the counts of what is left out by reason."""
    found = expand([f"{place}/{pattern}"], output=output)
    left = {one.reason: one.count for one in found.left_out}
    return [file.url.removeprefix(f"{place}/") for file in found], left


# Keys that are there, the pattern, files that are found, counts of what is left out.
LISTED = [
    # Hidden names that are data, and hidden names that are not.
    (["in/a", "in/_load_date=2026-01-01/b"], "in", ["in/_load_date=2026-01-01/b", "in/a"], {}),
    (["in/a", "in/_x=1/y=2/b"], "in/**", ["in/_x=1/y=2/b", "in/a"], {}),
    (["in/a", "in/_x=1/b"], "in/*/b", ["in/_x=1/b"], {}),
    (["in/a", "in/_old/b", "in/_old/c", "in/.d"], "in", ["in/a"], {"hidden": 3}),
    (["in/a", "in/_old/b", "in/_old/c.x"], "in/**/b", None, {}),
    (["in/a", "in/_old/b"], "in/_*/b", ["in/_old/b"], {}),
    (["in/a", "in/.old/b"], "in/.old", ["in/.old/b"], {}),
    (["in/a", "in/_old/b"], "in/*", ["in/a"], {}),
    # Names that tools write beside data need no note.
    (["in/a", "in/_SUCCESS", "in/.a.crc", "in/_committed_1", "in/_metadata"], "in", ["in/a"], {}),
    (["in/a", "in/_temporary/0/b", "in/.DS_Store", "in/._a"], "in", ["in/a"], {}),
    # A name that exists wins over its meaning as a pattern.
    (["in/[2026]/a", "in/2/b"], "in/[2026]", ["in/[2026]/a"], {}),
    (["in/[2026]/a", "in/2/a"], "in/[2026]/*", ["in/[2026]/a"], {}),
    (["in/[2026]/a", "in/2/a"], "in/[2]/*", ["in/2/a"], {}),
    (["in/*/a", "in/b/a"], "in/*", ["in/*/a"], {}),
    (["in/a*", "in/ab"], "in/a*", ["in/a*"], {}),
    (["in/what?.x", "in/whats.x"], "in/what?.x", ["in/what?.x"], {}),
    # Characters that mean something in other places.
    (["in/my data/a b"], "in/my data/a b", ["in/my data/a b"], {}),
    (["in/my data/a b"], "in/my data", ["in/my data/a b"], {}),
    (["in/my%20data/a"], "in/my%20data", ["in/my%20data/a"], {}),
    (["in/a#1", "in/a+b&c=d"], "in/a#1", ["in/a#1"], {}),
    (["in/a#1", "in/a+b&c=d"], "in/*", ["in/a#1", "in/a+b&c=d"], {}),
    (["in/#/a"], "in/#", ["in/#/a"], {}),
    ([f"in/{NFD}/a"], f"in/{NFC}", [f"in/{NFD}/a"], {}),
    ([f"in/{NFC}/a"], f"in/{NFD}", [f"in/{NFC}/a"], {}),
    ([f"in/{NFD}/a"], f"in/{NFC}*/*", [f"in/{NFD}/a"], {}),
    ([f"in/{NFD}/a", f"in/{NFC}/b"], f"in/{NFC}", [f"in/{NFC}/b"], {}),
    # Slashes at the end.
    (["in/a"], "in/", ["in/a"], {}),
    (["in/a"], "in//", ["in/a"], {}),
    (["in/2026-1/a", "in/2026-2/b"], "in/2026-*/", ["in/2026-1/a", "in/2026-2/b"], {}),
    # A pattern that matches only folders means everything below them.
    (["in/2026-1/a", "in/2026-2/c/b"], "in/2026-*", ["in/2026-1/a", "in/2026-2/c/b"], {}),
    (["in/x.jsonl/part-0", "in/_y/c"], "in/*.jsonl", ["in/x.jsonl/part-0"], {}),
    (["in/a", "in/b/c", "in/d/e"], "in/*", ["in/a"], {"folders": 2}),
    (["in/a.x", "in/b.x/c.x", "in/b.x/d"], "in/**/*.x", ["in/a.x", "in/b.x/c.x"], {}),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "pattern", "files", "left"), LISTED)
def test_listed(
    place: str, keys: list[str], pattern: str, files: list[str] | None, left: dict[str, int]
) -> None:
    """The same files are found locally and in S3, and the rest is counted."""
    store = open_store(place)
    for key in keys:
        store.put(key, b"x")
    if files is None:
        with pytest.raises(InputError, match=r"matches no files.* 1 file below a name"):
            expand([f"{place}/{pattern}"])
        return
    assert names(place, pattern) == (files, left)
    assert all(covers(f"{place}/{pattern}", f"{place}/{name}") for name in files) or left == {}


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("in/{a,b}", "list of paths"),
        ("in/a%20b", "was '.*/in/a b' meant"),
        ("in/x**", "`\\*\\*` has to stand alone"),
    ],
)
def test_a_path_that_means_nothing_is_refused_with_a_hint(place: str, path: str, hint: str) -> None:
    """People know these spellings from other tools."""
    open_store(place).put("in/a b", b"x")
    with pytest.raises(InputError, match=hint):
        expand([f"{place}/{path}"])


Make = Callable[[Path], object]
# How the folder `in` is made beside the folder `other`; the files, what is left out or the refusal.
LINKS: list[tuple[str, Make, list[str] | str, dict[str, int]]] = [
    ("file", lambda d: os.symlink("../other/b", d / "in/l"), ["in/a", "in/l"], {}),
    ("folder", lambda d: os.symlink("../other", d / "in/l"), ["in/a", "in/l/b"], {}),
    ("folder by its whole path", lambda d: os.symlink(d / "other", d / "in/l"),
     ["in/a", "in/l/b"], {}),
    ("file of the input", lambda d: os.symlink("a", d / "in/0"), ["in/a"], {"twice": 1}),
    ("two names", lambda d: [os.symlink("../other", d / f"in/{n}") for n in "lm"],
     ["in/a", "in/l/b"], {"twice": 1}),
    ("loop", lambda d: os.symlink(".", d / "in/l"), ["in/a"], {"twice": 1}),
    ("loop over another folder", lambda d: [os.symlink("../in", d / "other/l"),
     os.symlink("../other", d / "in/l")], ["in/a", "in/l/b"], {"twice": 1}),
    ("upwards", lambda d: os.symlink("..", d / "in/l"), ["in/a"], {"upward": 1}),
    ("root", lambda d: os.symlink("/", d / "in/l"), ["in/a"], {"upward": 1}),
    ("broken", lambda d: os.symlink("gone", d / "in/l"), "link '.*in/l' leads to 'gone'", {}),
    ("circle", lambda d: os.symlink("l", d / "in/l"), "'.*in/l' leads back to itself", {}),
    ("broken but hidden", lambda d: os.symlink("gone", d / "in/.#l"), ["in/a"], {}),
    ("hard link", lambda d: os.link(d / "other/b", d / "in/l"), ["in/a", "in/l"], {}),
    ("pipe", lambda d: os.mkfifo(d / "in/p"), ["in/a"], {"special": 1}),
    ("link to a pipe", lambda d: [os.mkfifo(d / "p"), os.symlink("../p", d / "in/p")],
     ["in/a"], {"special": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "files", "left"), [x[1:] for x in LINKS], ids=[x[0] for x in LINKS]
)
@pytest.mark.parametrize("pattern", ["in", "in/**"])
def test_links(
    tmp_path: Path, make: Make, pattern: str, files: list[str] | str, left: dict[str, int]
) -> None:
    """Links are followed, each file is read once, and a link that leads nowhere is refused."""
    for name in ("in/a", "other/b"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    make(tmp_path)
    if isinstance(files, str):
        with pytest.raises(InputError, match=files):
            expand([f"{tmp_path}/{pattern}"])
        return
    assert names(str(tmp_path), pattern) == (files, left)
    (tmp_path / "base").symlink_to("in")
    found, again = names(str(tmp_path), pattern.replace("in", "base"))
    assert again == left
    assert [name.replace("base", "in") for name in found] == files


def test_a_link_to_a_file_of_another_path_is_read_once(tmp_path: Path) -> None:
    """The order of the paths does not matter."""
    (tmp_path / "m").write_text("x")
    (tmp_path / "l").symlink_to("m")
    for paths in (["l", "m"], ["m", "l"], ["?"], ["l", "."]):
        found = expand([f"{tmp_path}/{name}" for name in paths])
        assert [file.url for file in found] == [f"{tmp_path}/m"]
        assert found.notes == [
            "left out of the input: 1 link to a file or folder that is in the input under another "
            f"name ('{tmp_path}/l')"
        ]


def test_paths_that_overlap_are_counted_once(place: str) -> None:
    """What is left out is a number of files."""
    for key in ("in/a", "in/_old/b", "in/_old/c", "in/.d"):
        open_store(place).put(key, b"x")
    found = expand([f"{place}/in", f"{place}/in/**", place])
    assert [(one.reason, one.count) for one in found.left_out] == [("hidden", 3)]


def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is named or found. The message says what to do."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s")
        (tmp_path / "a").write_text("x")
        assert names(str(tmp_path), "*") == (["a"], {"special": 1})
        with pytest.raises(InputError, match="write its contents into a file"):
            expand(["s"])


def test_a_file_that_vanishes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing of the folder and the look at the file."""
    for name in "abc":
        (tmp_path / name).write_text("x")

    def entries(self: object, folder: object) -> list[os.DirEntry[str]]:
        with os.scandir(tmp_path) as found:
            listed = sorted(found, key=lambda entry: entry.name)
        (tmp_path / "b").unlink()
        return listed

    monkeypatch.setattr("gemma_batch.storage.local_listing.Walk._entries", entries)
    assert names(str(tmp_path), "*") == (["a", "c"], {"gone": 1})


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_nobody(fn: Callable[[], str]) -> str:
    """The answer of a function that a process of a user without rights calls."""
    fn()  # imports what the function needs: the other user may not read the interpreter's modules
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            os.write(writer, fn().encode())
        except BaseException as err:
            os.write(writer, repr(err).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        return answer.read()


@pytest.mark.parametrize("pattern", ["in", "in/**/*.x", "in/*/*", "in/shut", "in/shut/*"])
def test_a_folder_without_permission_is_refused(open_folder: Path, pattern: str) -> None:
    """Its rows would be missing. A hidden folder, or one that is not asked for, may be shut."""
    (open_folder / "in" / "shut").mkdir(parents=True)
    (open_folder / "in" / "_old").mkdir()
    (open_folder / "in" / "a.x").write_text("x")
    for shut in ("shut", "_old"):
        (open_folder / "in" / shut).chmod(0)

    def listed(what: str) -> str:
        try:
            return str([file.url for file in expand([f"{open_folder}/{what}"])])
        except InputError as err:
            return str(err)

    said = as_nobody(lambda: listed(pattern))
    assert "no permission for" in said, said
    assert "in/shut" in said
    assert as_nobody(lambda: listed("in/*.x")) == str([f"{open_folder}/in/a.x"])
    (open_folder / "in" / "shut").chmod(0o755)
    assert as_nobody(lambda: listed("in")) == str([f"{open_folder}/in/a.x"])


def test_paths_that_name_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However people write it: relative, with `..` behind a link, as a URL, below the home."""
    (tmp_path / "in" / "my data").mkdir(parents=True)
    file = tmp_path / "in" / "my data" / "a.x"
    file.write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "in" / "my data")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (
        "../in/my data/a.x",
        "link/../my data/a.x",
        f"file://{tmp_path}/in/my data/a.x",
        f"file://{tmp_path}/in/my%20data/a.x",
        f"file://localhost{tmp_path}/in/my%20data/a.x",
        f"file:{tmp_path}/in/my%20data",
        "~/in/my data/",
        f"{tmp_path}//in/./my data//",
        f"file://{tmp_path}/in/my%20data/*.x",
    ):
        assert [one.url for one in expand([path])] == [str(file)], path
    (tmp_path / "elsewhere" / "~nobody-of-this-name.x").write_text("x")
    assert len(expand(["~nobody-of-this-name.x"])) == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("file://server/share/a.x", "names the host 'server'"),
        ("s3a://bucket/x", "write s3://bucket/x"),
        ("s3n://bucket/x", "write s3://bucket/x"),
        ("~nobody-of-this-name/a.x", "matches no files"),
    ],
)
def test_other_spellings_are_refused(path: str, said: str) -> None:
    """With the spelling that would do."""
    with pytest.raises(InputError, match=said):
        expand([path])


def s3_place(s3: S3Server, name: str) -> str:
    return f"{s3.bucket('left-out')}/{name}"


def put(s3: S3Server, url: str, body: bytes = b"x", **more: str) -> None:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    s3.client.put_object(Bucket=bucket, Key=key, Body=body, **more)


def test_keys_that_no_disk_could_have(s3: S3Server) -> None:
    """Marks of folders, two slashes, an object with the name of a folder."""
    place = s3_place(s3, "keys")
    for key, body in {
        "a/": b"", "a/b/": b"odd", "a/c.x": b"x", "a//d.x": b"x", "a/e_$folder$": b"", "a": b"",
        "f": b"x", "f/g": b"x",
    }.items():  # fmt: skip
        put(s3, f"{place}/{key}", body)
    assert names(place, "a") == (["a//d.x", "a/c.x"], {"slash": 1})
    assert names(place, "a/") == (["a//d.x", "a/c.x"], {"slash": 1})
    assert names(place, "a//") == (["a//d.x"], {})
    assert names(place, "a//d.x") == (["a//d.x"], {})
    assert names(place, "a//c.x") == (["a/c.x"], {})
    assert names(place, "f/") == (["f/g"], {})
    with pytest.raises(InputError, match=r"is an object and a folder: write '.*/f/'"):
        expand([f"{place}/f"])


def test_a_key_that_begins_with_a_slash_is_read(s3: S3Server) -> None:
    """From the listing to the bytes."""
    bucket = s3.bucket("slash-first")
    put(s3, f"{bucket}//x.jsonl", b"{}")
    for path in (bucket, f"{bucket}/", f"{bucket}//x.jsonl", f"{bucket}//*.jsonl"):
        (file,) = expand([path])
        assert file.url == f"{bucket}//x.jsonl"
        assert file.size == 2
    assert open_store(bucket).open("/x.jsonl").read() == b"{}"


def test_a_listing_of_many_pages_is_whole(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 gives a page per request."""
    from gemma_batch.storage.s3 import objects

    place = s3_place(s3, "pages")
    for i in range(7):
        put(s3, f"{place}/{i}")
    assert [one["Key"][-1] for one in objects(f"{place}/", most=2)] == list("0123456")


@pytest.mark.parametrize("name", ["", "a.x", "*.x"])
def test_archived_objects_are_refused_until_they_are_restored(s3: S3Server, name: str) -> None:
    """To read one fails. GLACIER_IR is an archive in name only."""
    place = s3_place(s3, f"archive{len(name)}")
    put(s3, f"{place}/a.x", StorageClass="GLACIER")
    put(s3, f"{place}/b.x", StorageClass="GLACIER_IR")
    with pytest.raises(InputError, match=r"a file is in an archive.*'.*/a.x'.*restore"):
        expand([f"{place}/{name}"])
    assert len(expand([f"{place}/b.x"])) == 1
    bucket, _, key = f"{place}/a.x".removeprefix("s3://").partition("/")
    s3.client.restore_object(Bucket=bucket, Key=key, RestoreRequest={"Days": 1})
    assert expand([f"{place}/{name}"])


def test_to_read_an_archived_object_says_so(s3: S3Server) -> None:
    """Also one that went into the archive after the plan."""
    place = s3_place(s3, "archived-later")
    put(s3, f"{place}/a.x", StorageClass="GLACIER")
    with pytest.raises(StorageError, match=r"is in an archive of S3 .*restore it first"):
        open_store(place).read("a.x")


class Denies(http.server.BaseHTTPRequestHandler):
    """An S3 server that answers every listing by a refusal, and knows no object."""

    def do_GET(self) -> None:
        """A listing."""
        status, _, headers, body = aws_answer("denied")
        self.answer(status, headers, body)

    def do_HEAD(self) -> None:
        """A look at an object."""
        self.answer(404, {}, b"")

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def denying(s3: S3Server) -> Iterator[str]:
    """The address of such a server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Denies)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["s3://b", "s3://b/in", "s3://b/in/*.x", "s3://b/[2026]/*"])
def test_a_listing_without_permission_is_refused(
    denying: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no empty folder."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", denying)
    with pytest.raises(InputError, match=r"no permission for 's3://b.*AccessDenied 403"):
        expand([path])

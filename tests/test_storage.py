from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from minilora import storage
from tests.says import refusal


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(*_):
    raise OSError("killed here")


# ------------------------------------------------------------------------------------ atomic_write


def test_atomic_write_makes_and_replaces(tmp_path):
    path = tmp_path / "new" / "file.bin"
    storage.atomic_write(path, b"old")
    storage.atomic_write(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert names(path.parent) == ["file.bin"]


def test_a_place_for_a_file_is_looked_at_before_there_is_one(tmp_path):
    storage.require_place("--json", None)
    storage.require_place("--json", tmp_path / "new.json")
    for place in (tmp_path, tmp_path / "none" / "new.json"):
        with refusal(ValueError, "--json", place):
            storage.require_place("--json", place)
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file.bin"
    storage.atomic_write(path, b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="killed here"):
        storage.atomic_write(path, b"newer")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_the_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("replace"), replace(a, b)))
    storage.atomic_write(tmp_path / "file.bin", b"data")
    assert steps[:2] == ["fsync", "replace"]


# ----------------------------------------------------------------------------------- atomic_folder


def fill(path, text):
    with storage.atomic_folder(path) as folder:
        (folder / "adapter_model.safetensors").write_text(text)
        (folder / "adapter_config.json").write_text("{}")


def content(path):
    return (path / "adapter_model.safetensors").read_text()


@pytest.mark.parametrize("exchange", [True, False])
def test_atomic_folder_makes_and_replaces(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(storage, "_exchange", lambda a, b: False)
    path = tmp_path / "deep" / "adapter"
    fill(path, "old")
    (path / "stale.json").write_text("{}")
    fill(path, "newer")
    assert content(path) == "newer"
    assert names(path) == ["adapter_config.json", "adapter_model.safetensors"]
    assert names(path.parent) == ["adapter"]


def test_nothing_is_seen_before_the_end(tmp_path):
    path = tmp_path / "adapter"
    with storage.atomic_folder(path) as folder:
        (folder / "a.json").write_text("{}")
        assert not path.exists()
        assert folder.parent == tmp_path
    assert names(path) == ["a.json"]


def test_a_failure_while_filling_leaves_the_old_folder(tmp_path):
    path = tmp_path / "adapter"
    fill(path, "old")
    with pytest.raises(KeyboardInterrupt), storage.atomic_folder(path) as folder:
        (folder / "adapter_model.safetensors").write_text("half")
        raise KeyboardInterrupt
    assert content(path) == "old"
    assert names(tmp_path) == ["adapter"]


def test_a_failure_between_the_renames_leaves_the_old_folder(tmp_path, monkeypatch):
    path = tmp_path / "adapter"
    fill(path, "old")
    rename = os.rename
    monkeypatch.setattr(storage, "_exchange", lambda a, b: False)
    monkeypatch.setattr(
        os, "rename", lambda a, b: (fail if str(a).endswith(".tmp") else rename)(a, b)
    )
    with pytest.raises(OSError, match="killed here"):
        fill(path, "newer")
    assert content(path) == "old"
    assert names(tmp_path) == ["adapter"]


def test_a_kill_between_the_renames_is_mended_by_the_next_call(tmp_path):
    path = tmp_path / "adapter"
    fill(path, "old")
    os.rename(path, tmp_path / ".adapter.previous")  # what such a kill leaves
    with pytest.raises(ZeroDivisionError), storage.atomic_folder(path):
        _ = 1 / 0
    assert content(path) == "old"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("a file"),
        lambda path: (path.mkdir(), (path / "thesis.docx").write_text("years of work")),
        lambda path: (path.mkdir(), (path / "notes.txt").write_text("years of work")),
        lambda path: (path.mkdir(), (path / "x.safetensors").touch(), (path / "sub").mkdir()),
    ],
    ids=["file", "other suffix", "no safetensors", "subfolder"],
)
def test_what_is_not_ours_is_not_replaced(tmp_path, make):
    path = tmp_path / "out"
    make(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="out"), storage.atomic_folder(path):
        pytest.fail("the folder must be refused before it is filled")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "new")
    assert content(tmp_path / "out") == "new"


# -------------------------------------------------------------------------------- symbolic links

links = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")


@links
@pytest.mark.parametrize("there", [True, False], ids=["filled", "dangling"])
def test_a_link_stays_and_its_target_is_written(tmp_path, there):
    target = tmp_path / "disk" / "deep" / "adapter"
    if there:
        fill(target, "old")
    link = tmp_path / "home" / "adapter"
    link.parent.mkdir()
    link.symlink_to(target)
    for text in ("new", "newer"):
        fill(link, text)
        assert link.is_symlink() and content(target) == text
    assert names(link.parent) == names(target.parent) == ["adapter"]


@links
def test_a_link_to_a_file_stays_too(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.json").symlink_to("disk/real.json")
    storage.atomic_write(tmp_path / "link.json", b"1")
    storage.atomic_write(tmp_path / "link.json", b"2")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "disk" / "real.json").read_bytes() == b"2"
    assert names(tmp_path / "disk") == ["real.json"] and names(tmp_path) == ["disk", "link.json"]


@links
def test_an_error_behind_a_link_names_the_link(tmp_path):
    (tmp_path / "file").write_text("no folder")
    link = tmp_path / "adapter"
    link.symlink_to(tmp_path / "file" / "below" / "adapter")
    for write in (lambda: fill(link, "new"), lambda: storage.atomic_write(link, b"new")):
        with pytest.raises(OSError) as error:
            write()
        assert error.value.filename == str(link)
    assert names(tmp_path) == ["adapter", "file"] and link.is_symlink()


@links
def test_links_in_a_circle_are_an_error_and_stay(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for write in (lambda p: fill(p, "new"), lambda p: storage.atomic_write(p, b"new")):
        with pytest.raises(OSError) as error:
            write(tmp_path / "a")
        assert error.value.errno == errno.ELOOP and error.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == ["a", "b"] and (tmp_path / "a").is_symlink()


@links
def test_what_a_link_points_to_is_replaced_only_if_it_is_ours(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.docx").write_text("years of work")
    (tmp_path / "out").symlink_to("thesis")
    with pytest.raises(ValueError, match="out"), storage.atomic_folder(tmp_path / "out"):
        pytest.fail("the folder must be refused before it is filled")
    assert names(tmp_path / "thesis") == ["thesis.docx"]


# ------------------------------------------------------------------------- errors and what is left


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write and fsync raise it


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError) as error:
        storage.atomic_write(tmp_path / "file.json", b"1")
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "file.json")
    with pytest.raises(OSError) as error, storage.atomic_folder(tmp_path / "adapter") as part:
        storage.atomic_write(part / "x.json", b"1")
    assert error.value.filename == str(tmp_path / "adapter" / "x.json")
    with pytest.raises(OSError) as error, storage.atomic_folder(tmp_path / "adapter"):
        full_disk()
    assert error.value.filename == str(tmp_path / "adapter")
    assert names(tmp_path) == []


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as error, storage.atomic_folder(tmp_path / "adapter"):
        (tmp_path / "elsewhere.json").read_text()
    assert error.value.filename == str(tmp_path / "elsewhere.json")


SAVE = """
import os, signal, sys, time
from pathlib import Path
from minilora import storage
path, what = Path(sys.argv[1]), sys.argv[2]
def wait(*_):
    print("saving", flush=True)
    time.sleep(60)
if what == "file":
    storage.os.fsync = wait
    storage.atomic_write(path, b"half")
else:
    with storage.atomic_folder(path) as part:
        (part / "a.safetensors").write_text("half")
        if what == "nested":
            with storage.atomic_folder(part) as inner:
                (inner / "b.safetensors").write_text("half")
                wait()
        wait()
"""


@pytest.mark.processes
@pytest.mark.parametrize("what", ["file", "folder", "nested"])
def test_what_a_killed_save_left_goes_with_the_next_and_a_live_one_stays(tmp_path, what):
    path = tmp_path / "out"
    save = (lambda: storage.atomic_write(path, b"new")) if what == "file" else (
        lambda: fill(path, "new")
    )  # fmt: skip
    command = [sys.executable, "-c", SAVE, str(path), what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "saving\n"
        during = names(tmp_path)
        assert during and all(name.startswith(".") for name in during)
        other = tmp_path / ".other.0123456789ab.tmp"
        other.write_text("of another place")
        save()
        assert names(tmp_path) == sorted([*during, other.name, "out"])
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
    save()
    assert names(tmp_path) == [other.name, "out"]


def test_a_disk_without_locks_is_written_and_nothing_is_swept(tmp_path, monkeypatch):
    import filelock

    def no_locks(*_, **__):
        raise NotImplementedError("no flock here")

    leftover = tmp_path / ".adapter.0123456789ab.tmp"
    leftover.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(filelock.FileLock, "acquire", no_locks)
        fill(tmp_path / "adapter", "new")
    assert content(tmp_path / "adapter") == "new" and leftover.is_dir()
    fill(tmp_path / "adapter", "newer")
    assert names(tmp_path) == ["adapter"]


# ------------------------------------------------------------------------------------- fingerprint


def arrays():
    return {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(2.5)}


def test_fingerprint_ignores_order_and_layout():
    first = storage.fingerprint(arrays())
    assert first.startswith("sha256:")
    assert len(first) == 7 + 64
    assert storage.fingerprint(dict(reversed(arrays().items()))) == first
    turned = {**arrays(), "b": np.asfortranarray(arrays()["b"])}
    assert storage.fingerprint(turned) == first
    swapped = {**arrays(), "b": arrays()["b"].astype(">f4")}
    assert storage.fingerprint(swapped) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x | {"b": x["b"].reshape(3, 2)},
        lambda x: x | {"b": x["b"].view(np.int32)},
        lambda x: x | {"b": x["b"] + np.float32([[0, 0, 0], [0, 0, 1e-6]])},
        lambda x: {"c": x["b"], "a": x["a"]},
        lambda x: {"a": x["a"]},
        lambda x: x | {"a": x["a"].reshape(1)},
    ],
    ids=["shape", "dtype", "value", "name", "missing", "scalar"],
)
def test_fingerprint_sees_every_change(change):
    assert storage.fingerprint(change(arrays())) != storage.fingerprint(arrays())


def test_sha256_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.sha256_file(tmp_path / "abc") == expected


# ------------------------------------------------------------------------------------- safetensors


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "i8", "u1", "?"])
def test_safetensors_round_trip(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    x = {
        "w": np.arange(15).reshape(3, 5).astype(dtype),
        "s": np.array(1, dtype),
        "e": np.zeros((0, 3), dtype),
    }
    storage.write_safetensors(path, x | {"t": x["w"].T}, {"base": "sha256:1"})
    back, metadata = storage.read_safetensors(path)
    assert metadata == {"base": "sha256:1"}
    assert set(back) == {"w", "s", "e", "t"}
    for name, array in (x | {"t": x["w"].T}).items():
        assert back[name].dtype == np.dtype(dtype)
        assert back[name].flags.writeable
        np.testing.assert_array_equal(back[name], array, strict=True)


def raw_file(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_bfloat16_comes_back_as_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.0e38, 0.0], dtype=np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    entry = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}
    raw_file(tmp_path / "b.safetensors", {"w": entry}, halves.tobytes())
    back, metadata = storage.read_safetensors(tmp_path / "b.safetensors")
    assert metadata == {}
    np.testing.assert_array_equal(back["w"], expected.reshape(2, 2), strict=True)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "x.safetensors"
    storage.write_safetensors(path, {"w": np.ones((7, 3), np.float32)})
    path.write_bytes(path.read_bytes()[:keep])
    with refusal(ValueError, "x.safetensors"):
        storage.read_safetensors(path)


def test_a_corrupt_header_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    storage.write_safetensors(path, {"w": np.ones((7, 3), np.float32)})
    path.write_bytes(path.read_bytes().replace(b'"shape"', b'"shale"'))
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        storage.read_safetensors(path)


def test_a_dtype_numpy_lacks_is_named(tmp_path):
    entry = {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}
    raw_file(tmp_path / "x.safetensors", {"w": entry}, b"\0\0")
    with refusal(ValueError, "w", "F8_E4M3", "F32"):
        storage.read_safetensors(tmp_path / "x.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        storage.read_safetensors(tmp_path / "nowhere.safetensors")


def test_every_shape_is_known_before_a_tensor_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    storage.write_safetensors(path, {"w": np.ones((7, 3), np.float16), "e": np.zeros((0, 2))})
    file = storage.SafetensorsFile(path)
    assert file.shapes == {"w": (7, 3), "e": (0, 2)}
    assert file.dtypes == {"w": "F16", "e": "F64"}
    widened = file.read("w", "float32")
    assert widened.dtype == np.float32 and widened.shape == (7, 3) and (widened == 1).all()
    assert file.read("e").shape == (0, 2)


# -------------------------------------------------------------------------------------------- JSON


def test_an_object_is_read_as_it_is(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes('{"a": [1, null, "ü"]}'.encode())
    assert storage.read_json(path) == {"a": [1, None, "ü"]}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[1]", b"3", b"null", b'"a"', b'{"a": "\xff"}', "{}".encode("utf-16"),
        b"\x1f\x8b\x08", b"[" * 100_000, b'{"a":' * 100_000, b"{}" + b" " * (16 << 20),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_object_is_named(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json"):
        storage.read_json(path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        storage.read_json(tmp_path / "nowhere.json")
    with pytest.raises(OSError, match="out"):
        (tmp_path / "out").mkdir()
        storage.read_json(tmp_path / "out")

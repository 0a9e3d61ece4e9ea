"""Stores at a URL: in fsspec's memory, and in an S3 server of moto's if that is installed."""

import multiprocessing
import shutil
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from poscon.cli import main
from poscon.commands.inspect import inspect
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.errors import PosconError
from poscon.networks.weights import read_weights
from poscon.store.remote import RemoteFolder, cache_folder
from poscon.store.store import Store, slices_sha256
from poscon.training.run import RunFolder

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (poscon[remote])")
TINY = ["network.width=4", "network.levels=2", "size=32", "batch=16"]
SLICES = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two cases of five slices, the first one labelled."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "scans").mkdir()
    for seed, name in enumerate(["a", "b"]):
        volume = np.random.default_rng(seed).normal(size=(7, 6, SLICES)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, np.diag([1, 1, 4, 1])), folder / f"scans/{name}.nii")
    labels = (volume > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.diag([1, 1, 4, 1])), folder / "scans/a_seg.nii")
    prepare(folder / "scans", folder / "store", labels="1=LV")
    return folder / "store"


@pytest.fixture(scope="module")
def s3_server() -> Any:
    pytest.importorskip("s3fs", reason="s3fs is not installed (poscon[remote])")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSCON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def use_s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def memory() -> str:
    """The URL of an empty folder in memory."""
    system = fsspec.filesystem("memory")
    if system.exists("/bucket"):
        system.rm("/bucket", recursive=True)
    return "memory://bucket/store"


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty folder in memory, and in an S3 bucket."""
    if request.param == "memory":
        return str(request.getfixturevalue("memory"))
    use_s3(request.getfixturevalue("s3_server"), monkeypatch)
    system = fsspec.filesystem("s3")
    if system.exists("bucket"):
        system.rm("bucket", recursive=True)
    system.mkdir("bucket")
    return "s3://bucket/store"


def upload(folder: Path, url: str) -> str:
    system, path = fsspec.core.url_to_fs(url)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            system.pipe_file(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return url


@pytest.fixture
def url(made: Path, memory: str) -> str:
    """A store in memory."""
    return upload(made, memory)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[tuple[int, int]]]]:
    """Every request for ranges of bytes."""
    seen: list[tuple[str, list[tuple[int, int]]]] = []
    original = RemoteFolder.ranges

    def ranges(folder: RemoteFolder, name: str, wanted: list[tuple[int, int]]) -> list[bytes]:
        seen.append((name, list(wanted)))
        return original(folder, name, wanted)

    monkeypatch.setattr(RemoteFolder, "ranges", ranges)
    return seen


def refusal(function: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(PosconError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is read


def test_a_remote_store_is_the_local_one(made, place):
    here, there = Store(made), Store(upload(made, place))
    assert there.manifest == here.manifest
    assert (there.path, there.name) == (place, "store")
    for case in here.cases:
        image = there.image(case)
        assert image.shape == here.image(case).shape
        assert image.dtype == np.float16
        assert len(image) == SLICES
        for number in (*range(SLICES), -1, np.int64(2)):
            assert image[number].shape == (1, *case.shape[1:])
            np.testing.assert_array_equal(image[number], here.image(case)[number])
        label = there.label(case) if case.labelled else None
        assert slices_sha256(image, label) == case.stored_sha256


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "use",
    [
        np.asarray,
        np.array,
        lambda a: np.asarray(a, np.float64),
        lambda a: a.astype(np.float32),
        lambda a: a[[0, 3]],
        lambda a: a[1:4],
        lambda a: a[..., 2],
        lambda a: a[a > 0],
        lambda a: a[3, 0, 2:, 1],
        lambda a: a == 1,
        lambda a: 2 * a + a,
        lambda a: (a > 0).any(axis=(1, 2, 3)),
        lambda a: a.take([1, 2], 2),
        lambda a: a.max(),
        lambda a: np.stack(list(a)),
        lambda a: np.ascontiguousarray(a),
        lambda a: a.tobytes(),
    ],
)
def test_an_array_is_used_as_numpys(made, url, use, warm):
    case = Store(made).cases[0]
    expected, image = Store(made).image(case), Store(url).image(case)
    if warm:
        np.asarray(image)
    else:
        image[2]  # some of it
    np.testing.assert_array_equal(use(image), use(expected))


@pytest.mark.parametrize("number", [SLICES, -SLICES - 1])
def test_no_such_slice(url, number):
    store = Store(url)
    with pytest.raises(IndexError):
        store.image(store.cases[0])[number]


def test_what_was_read_is_not_written_to(url):
    store = Store(url)
    image = store.image(store.cases[0])
    for _ in ("fetched", "kept"):
        with pytest.raises(ValueError, match="read-only"):
            image[0][0, 0, 0] = 1


# What is asked for


def test_a_slice_is_one_range_and_asked_for_once(made, place, requests):
    store = Store(upload(made, place))
    case = store.cases[0]
    size = 2 * case.shape[1] * case.shape[2]
    image = store.image(case)
    assert requests == [("cases/a/image.npy", [(0, 128)])]
    for number in (3, 0, 3, 0):
        image[number]
    assert requests[1:] == [
        ("cases/a/image.npy", [(128 + n * size, 128 + (n + 1) * size)]) for n in (3, 0)
    ]
    del requests[:]
    image.astype(np.float32)  # 1 to 2, and 4: in one request
    assert requests == [
        ("cases/a/image.npy", [(128 + a * size, 128 + b * size) for a, b in ((1, 3), (4, 5))])
    ]
    del requests[:]
    again = Store(place)
    np.testing.assert_array_equal(again.image(case), image)
    assert again.image(case)[2] is not None
    assert requests == []


def test_the_store_may_be_out_of_reach_once_it_was_read(made, url, monkeypatch):
    store = Store(url)
    for case in store.cases:
        np.asarray(store.image(case))
    fsspec.core.url_to_fs(url)[0].rm(fsspec.core.url_to_fs(url)[1], recursive=True)
    for case in Store(made).cases:
        for number in range(SLICES):
            expected = Store(made).image(case)[number]
            np.testing.assert_array_equal(store.image(case)[number], expected)


def test_the_slices_of_a_batch_are_asked_for_side_by_side(made, place, monkeypatch):
    store, here = Store(upload(made, place)), Store(made)
    wanted = [(case, number) for case in store.cases for number in (4, 0, 2, 2)]
    for case in store.cases:
        store.image(case)
    together = threading.Barrier(6, timeout=60)  # of the slices; one of each case is repeated
    original, begun = RemoteFolder.ranges, set()

    def ranges(folder: RemoteFolder, name: str, parts: list[tuple[int, int]]) -> list[bytes]:
        if (name, *parts) not in begun:
            begun.add((name, *parts))
            together.wait()
        return original(folder, name, parts)

    monkeypatch.setattr(RemoteFolder, "ranges", ranges)
    for found, (case, number) in zip(store.images(wanted), wanted, strict=True):
        np.testing.assert_array_equal(found, here.image(case)[number])


# What is kept


def test_where_slices_are_kept(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("POSCON_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "poscon"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "poscon"


def test_a_changed_store_at_the_same_place_is_not_mistaken(made, url, tmp_path):
    old = Store(url)
    np.asarray(old.image(old.cases[0]))
    scans = shutil.copytree(made.parent / "scans", tmp_path / "scans")
    shutil.copy(scans / "b.nii", scans / "a.nii")  # of the same shape
    upload(prepare(scans, tmp_path / "new", labels="1=LV").path, url)
    here, there = Store(tmp_path / "new"), Store(url)
    np.testing.assert_array_equal(there.image(there.cases[0]), here.image(here.cases[0]))


def test_the_same_case_at_two_places_is_kept_once(made, url, requests):
    store = Store(url)
    np.asarray(store.image(store.cases[0]))
    del requests[:]
    other = Store(upload(made, url + "-copy"))
    np.asarray(other.image(other.cases[0]))
    assert requests == []


def test_identical_cases_are_begun_at_once(made, url, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(12):
        shutil.copy(made.parent / "scans" / "b.nii", scans / f"{number:02d}.nii")
    upload(prepare(scans, tmp_path / "new").path, url)
    store, here = Store(url), Store(tmp_path / "new")
    wanted = [(case, 1) for case in store.cases]
    for image in store.images(wanted):
        np.testing.assert_array_equal(image, here.image(here.cases[0])[1])


def test_a_full_disk_keeps_nothing_and_reads_all(made, url, requests, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 96, 4))
    store, case = Store(url), Store(made).cases[0]
    image = store.image(case)
    for _ in range(2):
        np.testing.assert_array_equal(image[1], Store(made).image(case)[1])
        np.testing.assert_array_equal(image, Store(made).image(case))
    assert len(requests) == 1 + 4
    assert capsys.readouterr().err.count("nearly full") == 1


def test_the_cache_may_be_emptied_at_any_time(made, url, cache):
    store, case = Store(url), Store(made).cases[0]
    image = store.image(case)
    image[1]
    shutil.rmtree(cache)
    np.testing.assert_array_equal(image, Store(made).image(case))
    np.testing.assert_array_equal(Store(url).image(case)[4], Store(made).image(case)[4])


@pytest.mark.parametrize(
    "damage", ["a slice", "the header", "a mark", "cut off", "longer", "empty"]
)
def test_a_damaged_copy_is_fetched_again(made, url, cache, requests, capsys, damage):
    store, here = Store(url), Store(made)
    case = here.cases[0]
    np.asarray(store.image(case))
    (kept,) = (path for path in cache.rglob("*") if path.is_file())
    content = bytearray(kept.read_bytes())
    slice_bytes = 2 * case.shape[1] * case.shape[2]
    for name, place in {"a slice": 128 + slice_bytes, "the header": 60, "a mark": -20}.items():
        content[place] ^= name == damage
    if damage == "longer":
        content += b"\1" * 8
    kept.write_bytes(content[: {"cut off": 300, "empty": 0}.get(damage)])
    del requests[:]
    again = Store(url)
    for number in range(SLICES):
        np.testing.assert_array_equal(again.image(case)[number], here.image(case)[number])
    np.testing.assert_array_equal(again.image(case), here.image(case))
    slices = {"a slice": 1, "a mark": 1}.get(damage, 1 + SLICES)
    assert len(requests) == slices
    assert ("is damaged" in capsys.readouterr().err) == (damage in ("a slice", "a mark"))
    del requests[:]
    np.testing.assert_array_equal(Store(url).image(case), here.image(case))
    assert requests == []


def read_all(url: str, seed: int) -> list[str]:
    """Read the slices of both images in an order of one's own; hashes of what was read."""
    store = Store(url)
    found: dict[str, dict[int, np.ndarray]] = {"a": {}, "b": {}}
    for number in np.random.default_rng(seed).permutation(2 * SLICES):
        case = store.cases[number // SLICES]
        found[case.id][number % SLICES] = np.array(store.image(case)[number % SLICES])
    return [
        slices_sha256(np.stack([slices[i] for i in range(SLICES)]), None)
        for slices in found.values()
    ]


def test_processes_share_what_is_kept(made, place, requests):
    upload(made, place)
    expected = [slices_sha256(Store(made).image(case), None) for case in Store(made).cases]
    store = Store(place)
    store.image(store.cases[0])[0]  # before the others are forked
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(read_all, [(place, seed) for seed in range(6)]) == [expected] * 6
    del requests[:]
    assert read_all(place, 6) == expected
    assert requests == []


# Errors


def test_a_protocol_that_nobody_knows():
    assert refusal(Store, "nonsense://x/y").startswith("nonsense://x/y: fsspec cannot read this")


@pytest.mark.parametrize("module", ["fsspec.core", "gcsfs"])
def test_a_package_is_missing(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    message = refusal(Store, "gs://bucket/store")
    assert message.startswith("gs://bucket/store: fsspec ")
    assert "poscon[remote]" in message


def test_no_store_there(place):
    assert refusal(Store, place).startswith(f"{place}: not a store (no manifest.json)")


def test_a_half_copied_store(made, url):
    system, path = fsspec.core.url_to_fs(url)
    system.rm(f"{path}/manifest.json")
    assert "not a store (no manifest.json)" in refusal(Store, url)


def test_no_such_bucket(s3_server, monkeypatch):
    use_s3(s3_server, monkeypatch)
    assert refusal(Store, "s3://nowhere/store").startswith("s3://nowhere/store: not a store")


def test_nobody_answers(monkeypatch):
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (poscon[remote])")
    use_s3("http://127.0.0.1:1", monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    message = refusal(Store, "s3://bucket/store")
    assert message.startswith("s3://bucket/store: cannot be read (Could not connect")


def test_a_damaged_manifest(url):
    system, path = fsspec.core.url_to_fs(url)
    system.pipe_file(f"{path}/manifest.json", b"{")
    assert refusal(Store, url).startswith(f"{url}/manifest.json: damaged")


def test_an_absent_array(made, place):
    url = upload(made, place)
    system, path = fsspec.core.url_to_fs(url)
    system.rm(f"{path}/cases/a/image.npy")
    store = Store(url)
    message = refusal(store.image, store.cases[0])
    assert message.startswith(f"{url}/cases/a/image.npy: is absent")


@pytest.mark.parametrize("kept", [0, 60, 128, 300])
def test_an_array_that_is_cut_off(made, place, kept):
    url = upload(made, place)
    system, path = fsspec.core.url_to_fs(url)
    name = f"{path}/cases/a/image.npy"
    system.pipe_file(name, system.cat_file(name)[:kept])
    store = Store(url)
    message = refusal(lambda: store.image(store.cases[0])[SLICES - 1])
    assert message.startswith(f"{url}/cases/a/image.npy: ")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((SLICES, 6, 8), np.float16),
        np.zeros((SLICES, 6, 7), np.float32),
        np.zeros((SLICES, 42), np.float16),
        np.asfortranarray(np.zeros((SLICES, 6, 7), np.float16)),
        b"\0" * 1000,
    ],
)
def test_another_array(url, array, tmp_path):
    system, path = fsspec.core.url_to_fs(url)
    if not isinstance(array, bytes):
        np.save(tmp_path / "x.npy", array)
        array = (tmp_path / "x.npy").read_bytes()
    system.pipe_file(f"{path}/cases/a/image.npy", array)
    store = Store(url)
    message = refusal(store.image, store.cases[0])
    assert message.startswith(url)
    assert "store" in message


def test_the_cache_cannot_be_made(url, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POSCON_CACHE", str(tmp_path / "file" / "cache"))
    message = refusal(Store, url)
    assert message.startswith(str(tmp_path / "file" / "cache"))
    assert "POSCON_CACHE" in message


def test_nothing_is_written_to_a_url(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(prepare, made.parent / "scans", "s3://bucket/store")
    assert message.startswith("s3://bucket/store: a store is prepared in a folder")
    assert "--out" in refusal(inspect, "s3://bucket/store")
    assert list(tmp_path.iterdir()) == []


# Through the commands


def test_pre_training_from_a_url_gives_the_same_encoder(
    store, pretrained, place, requests, tmp_path
):
    upload(store, place)
    run = tmp_path / "run"
    pretrain(place, run, epochs=2, settings=TINY)
    here, there = (read_weights(r / "encoder.safetensors")[0] for r in (pretrained, run))
    assert here.keys() == there.keys()
    assert all((here[name] == there[name]).all() for name in here)
    assert RunFolder(run).read_config()["store"] == place
    # each slice was asked for once, in whichever epoch; and the header of each image
    counts = Counter((name, wanted) for name, ranges in requests for wanted in ranges)
    assert set(counts.values()) == {1}
    assert len(counts) == sum(case.shape[0] + 1 for case in Store(store).cases)


def test_the_command_line_takes_a_url(url, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["poscon", "inspect", url, "--out", str(tmp_path / "s.png")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert (tmp_path / "s.png").is_file()
    assert url in capsys.readouterr().out

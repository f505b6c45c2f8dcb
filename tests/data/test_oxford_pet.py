from __future__ import annotations

import hashlib
import shutil
import socket
import tarfile
import urllib.error

import pytest

from squeeze_cli.data import download, known_sets
from squeeze_cli.errors import SqueezeError
from tests.conftest import REAL_DATA
from tests.data.conftest import serving
from tests.pets import TINY_NAMES, broken, pets_below, write_layout


@pytest.fixture
def archives(tmp_path_factory, monkeypatch):
    """The two archives of a tiny data set behind a local server."""
    where = tmp_path_factory.mktemp("server")
    folder = write_layout(where / "made", TINY_NAMES)
    resources = []
    with serving(where) as site:
        for part in ("images", "annotations"):
            archive = where / f"{part}.tar.gz"
            with tarfile.open(archive, "w:gz") as tar:
                tar.add(folder / part, part)
            md5 = hashlib.md5(archive.read_bytes()).hexdigest()
            resources.append((f"{site}/{archive.name}", md5))
        monkeypatch.setattr(known_sets, "ARCHIVES", tuple(resources))
        yield where


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError(OSError("Name or service not known"))

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def names(samples):
    return [sample.name for sample in samples]


def test_lists_the_official_splits_in_order(tiny_pets):
    source = pets_below(tiny_pets)
    assert names(source.listing().train) == TINY_NAMES["trainval"]
    assert names(source.listing().test) == TINY_NAMES["test"]
    sample = source.listing().test[0]
    assert sample.image_path == tiny_pets / "oxford-iiit-pet" / "images" / "Bengal_1.jpg"
    assert broken(source.listing().test) == []


@pytest.mark.usefixtures("no_network")
def test_missing_data_without_network_is_one_line_with_the_fix(tmp_path):
    with pytest.raises(SqueezeError) as caught:
        pets_below(tmp_path).listing()
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        str(tmp_path / "oxford-iiit-pet"),
        "Name or service not known",
        "images.tar.gz",
        "annotations.tar.gz",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        "--dataset synthetic",
    ):
        assert part in message


@pytest.mark.parametrize("error", [TimeoutError("timed out"), ConnectionResetError("reset")])
def test_other_network_errors_read_the_same(error, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(SqueezeError, match=f"could not be downloaded .{error}"):
        pets_below(tmp_path).listing()


@pytest.mark.parametrize(
    "gone", ["images", "annotations", "annotations/test.txt", "annotations/trimaps"]
)
def test_half_unpacked_data_are_missing_data(gone, tiny_pets):
    path = tiny_pets / "oxford-iiit-pet" / gone
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.unlink()
    with pytest.raises(SqueezeError, match="is not complete"):
        pets_below(tiny_pets).listing(download=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Bengal_1 1 1 1\nBengal_2 1\n", r"test\.txt, line 2: 'Bengal_2 1' .*: correct or remove"),
        ("\nBengal_1 one 1 1\n", r"test\.txt, line 2: .*: correct or remove"),
        ("# nothing else\n", r"test\.txt names nothing: write a name"),
        ("Bengal_\udcff\n", r"test\.txt .*UTF-8"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_a_malformed_list_is_reported_and_kept(text, reason, tiny_pets):
    path = tiny_pets / "oxford-iiit-pet" / "annotations" / "test.txt"
    content = text.encode("utf-8", "surrogateescape")
    path.write_bytes(content)
    for allowed in (False, True):
        with pytest.raises(SqueezeError, match=reason) as caught:
            pets_below(tiny_pets).listing(download=allowed)
        assert "\n" not in str(caught.value)
        assert "delete" not in str(caught.value)
    assert path.read_bytes() == content


def test_lists_made_by_hand_are_understood(tiny_pets):
    folder = tiny_pets / "oxford-iiit-pet"
    (folder / "images" / "Bengal_2.jpg").rename(folder / "images" / "Bengal_2.JPG")
    text = "\ufeff#Image CLASS-ID SPECIES BREED\r\n\r\nBengal_3 6 1 4\r\n  Bengal_2\r\nBengal_1.JPG"
    (folder / "annotations" / "test.txt").write_text(text, encoding="utf-8")
    samples = pets_below(tiny_pets).listing(download=False).test
    assert names(samples) == ["Bengal_3", "Bengal_2", "Bengal_1"]
    assert broken(samples) == []


@pytest.mark.usefixtures("archives")
def test_unpacking_keeps_a_list_that_is_there(tmp_path):
    annotations = tmp_path / "oxford-iiit-pet" / "annotations"
    annotations.mkdir(parents=True)
    (annotations / "trainval.txt").write_text("Abyssinian_7\nAbyssinian_2\n")
    source = pets_below(tmp_path)
    assert names(source.listing().train) == ["Abyssinian_7", "Abyssinian_2"]
    assert names(source.listing().test) == TINY_NAMES["test"]
    assert broken(source.listing().train) == []


@pytest.mark.usefixtures("archives")
def test_unpacking_replaces_no_file(tiny_pets):
    folder = tiny_pets / "oxford-iiit-pet"
    own = {path: path.read_bytes() for path in folder.rglob("*.*g")}
    for path in own:
        own[path] += b"own"
        path.write_bytes(own[path])
    (folder / ".unpacking").touch()
    assert names(pets_below(tiny_pets).listing().test) == TINY_NAMES["test"]
    assert {path: path.read_bytes() for path in own} == own


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("gone", ["annotations/test.txt", "annotations/trimaps"])
def test_nothing_is_downloaded_beside_somebodys_images(gone, tiny_pets, monkeypatch):
    path = tiny_pets / "oxford-iiit-pet" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.setattr(download, "download_url", None)
    with pytest.raises(SqueezeError, match=f"{gone}.*Add what is missing, or put https"):
        pets_below(tiny_pets).listing()


@pytest.mark.usefixtures("archives")
def test_download_and_unpacking(tmp_path):
    source = pets_below(tmp_path)
    assert names(source.listing().train) == TINY_NAMES["trainval"]
    assert broken(source.listing().test) == []
    assert not (tmp_path / "oxford-iiit-pet" / ".unpacking").exists()
    assert socket.getdefaulttimeout() is None


def test_damaged_download_does_not_pass_and_is_fetched_again(archives, tmp_path):
    whole = (archives / "annotations.tar.gz").read_bytes()
    (archives / "annotations.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SqueezeError, match=r"could not be downloaded .*corrupted"):
        pets_below(tmp_path).listing()
    with pytest.raises(SqueezeError, match="is not complete"):
        pets_below(tmp_path).listing(download=False)
    (archives / "annotations.tar.gz").write_bytes(whole)
    assert len(pets_below(tmp_path).listing().train) == 10


@pytest.mark.usefixtures("archives")
def test_killed_while_unpacking_is_not_complete_and_unpacks_again(tmp_path, monkeypatch):
    def killed(path, to_path):
        if "annotations" in str(path):
            raise KeyboardInterrupt
        return extract(path, to_path)

    extract = download.extract_archive
    with monkeypatch.context() as patch:
        patch.setattr(download, "extract_archive", killed)
        with pytest.raises(KeyboardInterrupt):
            pets_below(tmp_path).listing()
    with pytest.raises(SqueezeError, match="is not complete"):
        pets_below(tmp_path).listing(download=False)
    assert len(pets_below(tmp_path).listing().test) == 4
    assert not (tmp_path / "oxford-iiit-pet" / ".unpacking").exists()


@pytest.mark.usefixtures("archives")
def test_what_an_earlier_version_left_half_unpacked_is_unpacked_again(tiny_pets):
    folder = tiny_pets / "oxford-iiit-pet"
    (folder / ".unpacking").touch()
    (folder / "images" / "Bengal_1.jpg").unlink()
    with pytest.raises(SqueezeError, match="is not complete"):
        pets_below(tiny_pets).listing(download=False)
    assert broken(pets_below(tiny_pets).listing().test) == []


@pytest.mark.usefixtures("no_network")
def test_archives_put_there_by_hand_need_no_network(archives, tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    folder.mkdir()
    for name in ("images.tar.gz", "annotations.tar.gz"):
        shutil.copy(archives / name, folder)
    assert len(pets_below(tmp_path).listing().train) == 10


def test_a_server_that_stalls_does_not_hang(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/images.tar.gz"
        monkeypatch.setattr(known_sets, "ARCHIVES", ((url, "0" * 32),))
        monkeypatch.setattr(download, "STALL_SECONDS", 0.1)
        with pytest.raises(SqueezeError, match="timed out"):
            pets_below(tmp_path).listing()


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real photographs are not here")
def test_real_splits_are_disjoint():
    source = pets_below(REAL_DATA)
    trainval, test = names(source.listing().train), names(source.listing().test)
    assert (len(trainval), len(test)) == (300, 149)
    assert not set(trainval) & set(test)

# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import fcntl
import os
import stat
import sys
from datetime import datetime, timedelta, timezone

import pytest

from geo_accel.sites import authority
from geo_accel.sites.credentials import is_removed, read_credentials, read_key_file
from tests.sites.handshake import shake_hands


def shown_by(path):
    credentials = read_credentials(path)
    return shake_hands(credentials.client(), credentials.server())[0]


def test_key_files_and_the_authority_are_their_owners_alone(folder):
    old = os.umask(0)
    try:
        authority.add(folder, "c")
    finally:
        os.umask(old)
    for name in ("authority.pem", "a.pem", "b.pem", "c.pem"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.pem",
        "authority.pem",
        "b.pem",
        "c.pem",
        "issued.json",
    ]
    assert "PRIVATE" not in (folder / "issued.json").read_text()


def test_a_second_authority_in_one_folder_is_refused(folder):
    before = (folder / "authority.pem").read_bytes()
    with pytest.raises(ValueError, match="holds an authority already"):
        authority.init(folder)
    (folder / "authority.pem").rename(folder.parent / "elsewhere.pem")
    with pytest.raises(ValueError, match=r"issued\.json"):
        authority.init(folder)
    assert (folder.parent / "elsewhere.pem").read_bytes() == before


def test_a_renewed_site_proves_itself_and_its_old_key_file_is_named_as_removed(folder):
    old = shown_by(folder / "a.pem")
    authority.add(folder, "a", days=3)
    new = shown_by(folder / "a.pem")
    assert new.site == "a" and new.serial != old.serial
    for name in ("a.pem", "b.pem"):
        removed = read_credentials(folder / name).about.removed
        assert is_removed(old, removed) and not is_removed(new, removed)
    assert [one.removed for one in authority.issued(folder) if one.site == "a"] == [True, False]


def test_a_removed_site_is_named_in_all_key_files_and_its_own_is_gone(folder):
    a = shown_by(folder / "a.pem")
    authority.remove(folder, "a")
    assert is_removed(a, read_credentials(folder / "b.pem").about.removed)
    assert not (folder / "a.pem").exists()
    assert is_removed(a, read_credentials(authority.add(folder, "c")).about.removed)
    with pytest.raises(ValueError, match=r"no certificate of 'a' to remove; it has b, c\."):
        authority.remove(folder, "a")


def test_what_has_ended_is_not_named_any_more(folder, long_ago):
    authority.add(folder, "c", days=10, now=long_ago)
    authority.remove(folder, "c")
    assert read_credentials(folder / "b.pem").about.removed == ()


def test_a_removal_that_was_cut_off_is_done_by_the_same_command(folder, monkeypatch):
    a = shown_by(folder / "a.pem")
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(authority, "_write_issued", full_disk)
        authority.remove(folder, "a")
    authority.remove(folder, "a")
    assert is_removed(a, read_credentials(folder / "b.pem").about.removed)


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_key_file_is_never_there_without_being_known(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(authority, "_write_issued", full_disk)
        authority.add(folder, "c")
    assert not (folder / "c.pem").exists()
    assert [path.name for path in folder.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a b", "-a", "a\n", "a" * 64, "ä", "a\x00"])
def test_names_that_no_site_can_have(folder, name):
    with pytest.raises(ValueError, match="cannot be a site's name"):
        authority.add(folder, name)


@pytest.mark.parametrize("name", ["authority", "Authority"])
def test_a_site_whose_key_file_would_be_the_authoritys(folder, name):
    with pytest.raises(ValueError, match="would be the authority's"):
        authority.add(folder, name)


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf"), 1e9])
def test_days_that_no_certificate_lasts(folder, days):
    before = authority.issued(folder)
    with pytest.raises(ValueError, match="a certificate cannot last"):
        authority.add(folder, "a", days=days)
    assert authority.issued(folder) == before


def test_no_certificate_outlasts_its_authority_and_one_that_has_ended_signs_none(folder):
    until = read_key_file(authority.add(folder, "a", days=36500)).about.ends
    assert until < datetime.now(timezone.utc) + timedelta(days=3651)
    assert shown_by(folder / "a.pem").site == "a"
    with pytest.raises(ValueError, match=r"ended on .*: make a new one in another folder"):
        authority.add(folder, "a", now=datetime.now(timezone.utc) + timedelta(days=3651))


@pytest.mark.parametrize("act", [lambda folder: authority.add(folder, "a"), authority.issued])
def test_a_folder_without_an_authority(tmp_path, act):
    with pytest.raises(ValueError, match="geo-accel keys init"):
        act(tmp_path)
    with pytest.raises(ValueError, match="geo-accel keys init"):
        act(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_authority(folder, text):
    (folder / "authority.pem").write_text(text)
    with pytest.raises(ValueError, match=r"^the authority in .* is damaged .*restore it") as error:
        authority.add(folder, "a")
    assert "\n" not in str(error.value)


def test_an_authority_that_others_may_read(folder):
    (folder / "authority.pem").chmod(0o644)
    with pytest.raises(ValueError, match="can be read by others; make it yours alone: chmod 600"):
        authority.add(folder, "a")


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[1]", '[{"site": "a"}]', "null", '[{"site": "a", "serial": "x", "until": "2030-01-01"}]']
)
def test_a_damaged_list_of_what_was_signed(folder, text):
    (folder / "issued.json").write_text(text)
    if text == "{}":
        assert authority.issued(folder) == []
        return
    with pytest.raises(ValueError, match=r"cannot be read .*restore it"):
        authority.issued(folder)


def test_two_at_once_do_not_forget_each_others(folder):
    door = os.open(folder, os.O_RDONLY)
    fcntl.flock(door, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another geo-accel keys is at work"):
        authority.add(folder, "c")
    os.close(door)
    authority.add(folder, "c")


def test_without_cryptography_one_line_says_so_and_what_needs_it_not_works(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ValueError, match="pip install cryptography"):
        authority.init(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="pip install cryptography"):
        authority.add(folder, "a")
    authority.remove(folder, "b")
    assert read_credentials(folder / "a.pem").site == "a"

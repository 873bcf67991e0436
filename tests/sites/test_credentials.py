# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
import re
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.sites import authority
from geo_accel.sites.credentials import About, Shown, is_removed, read_credentials
from tests.sites.handshake import shake_hands


def write(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def blocks_of(path):
    return re.findall(r"-----BEGIN .*?-----END [A-Z ]+-----\n", path.read_text(), re.DOTALL)


def test_two_of_one_authority_prove_their_names(credentials_of):
    a, b = credentials_of("a"), credentials_of("b")
    assert a.site == "a"
    by_client, by_server = shake_hands(a.client(), b.server())
    assert (by_client.site, by_server.site) == ("b", "a")
    assert by_client.fingerprint != by_server.fingerprint


def test_what_was_read_stays_when_the_file_is_renewed(folder):
    before = read_credentials(folder / "a.pem")
    fingerprint = shake_hands(before.client(), read_credentials(folder / "b.pem").server())[1].fingerprint
    authority.add(folder, "a")
    assert shake_hands(before.client(), before.server())[0].fingerprint == fingerprint


@pytest.mark.parametrize("is_client", [True, False])
def test_another_authority_is_refused_at_both_ends(folder, credentials_of, is_client):
    stranger, own = read_credentials(folder / "a.pem"), credentials_of("a")
    ends = (stranger.client(), own.server()) if is_client else (own.client(), stranger.server())
    assert all(isinstance(learnt, OSError) for learnt in shake_hands(*ends))


def test_nothing_older_than_tls_1_3_and_nobody_without_a_certificate(credentials_of):
    server = credentials_of("a").server()
    old = credentials_of("b").client()
    assert old.minimum_version == server.minimum_version == ssl.TLSVersion.TLSv1_3
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.load_verify_locations(cadata=credentials_of("a").authority)
    _, by_server = shake_hands(nobody, server)
    assert isinstance(by_server, ssl.SSLError) and "PEER_DID_NOT_RETURN_A_CERTIFICATE" in by_server.reason
    nobody.maximum_version = ssl.TLSVersion.TLSv1_2
    assert isinstance(shake_hands(nobody, server)[1], ssl.SSLError)


# ---- refused, each in one line that says what to do


def refused(path) -> str:
    with pytest.raises(ValueError) as error:
        read_credentials(path)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and "PRIVATE" not in text
    return text


def test_a_file_that_is_not_there(tmp_path):
    assert "No such file or directory; geo-accel keys add makes one" in refused(tmp_path / "a.pem")
    assert "Is a directory" in refused(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_use(folder, mode):
    (folder / "a.pem").chmod(mode)
    assert "can be read by others; make it yours alone: chmod 600" in refused(folder / "a.pem")


@pytest.mark.parametrize(
    "first",
    ["", "{}", "[]", "[" * 50000, '{"geo_accel_keys": 2}', '{"geo_accel_keys": 1, "site": "a"}', "\x00", "null"],
)
def test_a_first_line_of_something_else(folder, first):
    rest = (folder / "a.pem").read_text().partition("\n")[2]
    assert "no key file of this version" in refused(write(folder / "a.pem", f"{first}\n{rest}"))


def test_bytes_that_are_no_text(folder):
    (folder / "a.pem").write_bytes(b"\xff\xfe")
    assert "it is no text" in refused(folder / "a.pem")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_file_that_lacks_a_part(folder, missing):
    first = (folder / "a.pem").read_text().partition("\n")[0]
    parts = blocks_of(folder / "a.pem")
    del parts[missing]
    assert "damaged" in refused(write(folder / "a.pem", "\n".join([first, *parts])))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_part_that_is_damaged(folder, part):
    text = (folder / "a.pem").read_text()
    block = blocks_of(folder / "a.pem")[part]
    middle = len(block) // 2
    damaged = block[:middle] + ("A" if block[middle] != "A" else "B") + block[middle + 1 :]
    text = text.replace(block, damaged)
    said = refused(write(folder / "a.pem", text))
    assert "belong together" in said or "does not hold" in said or "damaged" in said


@pytest.mark.parametrize("part", [0, 1, 2], ids=["key", "certificate", "authority"])
def test_parts_that_do_not_belong_together(folder, keys, part):
    mine, others = blocks_of(folder / "a.pem"), blocks_of(keys / "a.pem")
    text = (folder / "a.pem").read_text().replace(mine[part], others[part])
    said = refused(write(folder / "a.pem", text))
    assert "do not belong together" in said or "does not hold" in said


def test_an_encrypted_key_asks_nobody_for_a_password(folder):
    from cryptography.hazmat.primitives import serialization as s

    key = blocks_of(folder / "a.pem")[0]
    loaded = s.load_pem_private_key(key.encode(), None)
    locked = loaded.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"x")).decode()
    refused(write(folder / "a.pem", (folder / "a.pem").read_text().replace(key, locked)))


def test_one_that_has_ended_whatever_its_first_line_says(folder, long_ago):
    path = authority.add(folder, "a", days=10, now=long_ago)
    assert "a's certificate ended on" in refused(path) and "geo-accel keys add a." in refused(path)
    first, _, rest = path.read_text().partition("\n")
    said = refused(write(path, json.dumps(json.loads(first) | {"until": "2999-01-01T00:00:00+00:00"}) + "\n" + rest))
    assert "certificate has expired" in said


def test_one_that_has_not_begun_names_the_clock(folder, long_ago):
    path = authority.add(folder, "a", days=300, now=long_ago.replace(year=long_ago.year + 2))
    assert "not yet valid" in refused(path) and "clock" in refused(path)


def test_one_that_calls_itself_by_anothers_name(folder):
    first, _, rest = (folder / "a.pem").read_text().partition("\n")
    said = refused(write(folder / "a.pem", json.dumps(json.loads(first) | {"site": "b"}) + "\n" + rest))
    assert "calls itself b's, but its certificate is a's" in said


# ---- the first line


SOMETHING = st.none() | st.integers() | st.text(max_size=4) | st.just("2030-01-01T00:00:00+00:00") | st.just([])
FIELDS = ("geo_accel_keys", "site", "until", "removed")


@given(SOMETHING | st.fixed_dictionaries({}, optional={name: SOMETHING | st.just(1) for name in FIELDS}))
def test_whatever_stands_in_the_first_line_it_is_read_or_refused(content):
    try:
        about = About.from_line(json.dumps(content))
    except ValueError:
        return
    assert About.from_line(about.to_line()) == about


def test_serial_numbers_are_compared_as_numbers():
    shown = Shown("a", "0abc", "")
    assert is_removed(shown, ["ABC"]) and is_removed(shown, ["00abc"]) and not is_removed(shown, ["abc0"])

# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import json
from datetime import datetime, timedelta, timezone

import pytest

from geo_accel.commands import keys
from geo_accel.commands.main import main
from geo_accel.sites import authority
from geo_accel.sites.credentials import read_credentials

pytest.importorskip("cryptography")


@pytest.fixture
def folder(tmp_path, capsys):
    assert main(["keys", "init", str(tmp_path / "keys")]) == 0
    capsys.readouterr()
    return tmp_path / "keys"


def test_the_way_that_the_help_shows(folder, capsys):
    for site in "ab":
        assert main(["keys", "add", site, "--keys", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"{folder / 'a.pem'} lasts until" in said and "whoever has it is that site" in said
    assert "PRIVATE" not in said
    assert read_credentials(folder / "b.pem").site == "b"
    assert main(["keys", "remove", "a", "--keys", str(folder)]) == 0
    assert "it then refuses a" in capsys.readouterr().out
    assert not (folder / "a.pem").exists()


def test_a_folder_as_a_table_and_as_json(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    authority.add(folder, "a")
    authority.add(folder, "b", days=10)
    authority.add(folder, "b", days=2, now=datetime.now(timezone.utc) - timedelta(days=1))
    assert main(["keys", "show", str(folder)]) == 0
    table = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]
    assert [(row[0], row[2], row[3]) for row in rows] == [("a", "364", ""), ("b", "9.9", "yes"), ("b", "0.9", "")]
    assert "Ended or soon to end: b. geo-accel keys add NAME renews." in table
    assert main(["keys", "show", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["site"], one["removed"], one["days_left"]) for one in found] == [
        ("a", False, 364.9),
        ("b", True, 9.9),
        ("b", False, 0.9),
    ]
    assert found[2]["serial"] in {f"{int(one.serial, 16):x}" for one in authority.issued(folder)}


def test_one_key_file_even_one_that_has_ended(folder, capsys):
    authority.add(folder, "b")
    authority.remove(folder, "b")
    path = authority.add(folder, "a", days=1, now=datetime.now(timezone.utc) - timedelta(days=3))
    assert main(["keys", "show", str(path)]) == 0
    said = capsys.readouterr().out
    assert "ended" in said and "it refuses 1 removed certificate(s)" in said and "PRIVATE" not in said
    assert main(["keys", "show", str(path), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["site"] == "a" and one["days_left"] == -2.1 and len(one["names_removed"]) == 1


@pytest.mark.parametrize("left, style", [(100.0, ""), (29.9, "yellow"), (0.0, "yellow"), (-0.1, "red")])
def test_colour_where_it_ends_soon(capsys, monkeypatch, left, style):
    styles = []
    monkeypatch.setattr(keys.Table, "add_row", lambda self, *cells, style: styles.append(style))
    keys._print_table("t", [{"site": "a", "until": "2030-01-01T", "days_left": left, "removed": False}])
    assert styles == [style]


@pytest.mark.parametrize(
    "words, said",
    [
        (["init", "{folder}"], "holds an authority already"),
        (["init", "{folder}/issued.json"], "is a file; give a folder"),
        (["add", "../a", "--keys", "{folder}"], "cannot be a site's name"),
        (["add", "authority", "--keys", "{folder}"], "would be the authority's"),
        (["add", "a", "--keys", "{folder}/nothing"], "No such file or directory; geo-accel keys init makes"),
        (["add", "a", "--keys", "{folder}/issued.json"], "Not a directory"),
        (["add", "a", "--keys", "{folder}/.."], "holds no authority"),
        (["add", "a", "--keys", "{folder}", "--days", "1e7"], "cannot last 1e+07 days"),
        (["remove", "a", "--keys", "{folder}"], "no certificate of 'a' to remove; it has none."),
        (["show", "{folder}/.."], "holds no authority"),
        (["show", "{folder}/a.pem"], "No such file or directory; geo-accel keys add makes one"),
        (["show", "{folder}/issued.json"], "can be read by others"),
        (["show", "{folder}/authority.pem"], "no key file of this version"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(folder, capsys, words, said):
    (folder / "issued.json").chmod(0o644)
    assert main(["keys", *(word.format(folder=folder) for word in words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("geo-accel: error: keys: ") and said in lines[0]


@pytest.mark.parametrize(
    "words", [[], ["add", "a"], ["add", "--keys", "k"], ["add", "a", "--keys", "k", "--days", "0"]]
)
def test_wrong_arguments_are_one_line_and_exit_code_2(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(["keys", *words])
    assert ended.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_a_full_disk_is_one_line(folder, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "keys/a.pem")

    monkeypatch.setattr(authority, "_write_secret", full)
    assert main(["keys", "add", "a", "--keys", str(folder)]) == 2
    assert capsys.readouterr().err == "geo-accel: error: keys: keys/a.pem: No space left on device\n"

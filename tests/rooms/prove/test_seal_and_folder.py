"""A changed forecast breaks its seal; files appear whole or not at all."""

import pytest

from datahall.base.errors import SealBroken, WorldFailed
from datahall.prove import seal
from datahall.prove.folder import new_folder, read_json, write_json, write_text


def test_a_sealed_forecast_checks(tmp_path):
    digest = seal.seal(tmp_path, {"step_time_s": 1.25})
    assert seal.check(tmp_path) == digest


def test_a_changed_forecast_breaks_the_seal(tmp_path):
    seal.seal(tmp_path, {"step_time_s": 1.25})
    write_json(tmp_path / seal.FORECAST, {"step_time_s": 1.26})
    with pytest.raises(SealBroken, match="changed after it was sealed"):
        seal.check(tmp_path)


def test_two_runs_in_one_second_get_two_folders(tmp_path):
    first, second = new_folder(tmp_path, "a/b c"), new_folder(tmp_path, "a/b c")
    assert first != second
    assert first.name.endswith("a-b-c")


def test_a_place_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorldFailed, match="cannot write here"):
        new_folder(tmp_path / "file", "run")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "old")
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_reading_what_is_not_there_says_where(tmp_path):
    with pytest.raises(WorldFailed, match=r"missing\.json"):
        read_json(tmp_path / "missing.json")

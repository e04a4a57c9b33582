"""The family that an edge follows, as its settings say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_worker.settings import FamilySettings
from edge_node.cli.main import main as run_edge
from edge_node.fleet.catalogue import family_catalogue
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.errors import UsageError

KEY = "ab" * 32


def test_a_family_and_its_root_key_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_edge(["ask", "hi", "--family", "smol"]) == 2
    assert "nothing says who signs for the family smol" in capsys.readouterr().err
    assert run_edge(["ask", "hi", "--root-key", KEY]) == 2
    assert "name the family with --family" in capsys.readouterr().err
    assert run_edge(["ask", "hi", "--family", "a/b", "--root-key", KEY]) == 2
    assert "family name 'a/b' cannot stand in a topic" in capsys.readouterr().err
    assert run_edge(["ask", "hi", "--family", "smol", "--root-key", "/no/such"]) == 2
    assert "is neither a public key nor a file" in capsys.readouterr().err


def test_the_root_key_may_be_a_file_and_the_state_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "root.pub").write_text(KEY + "\n")
    settings = FamilyOptions(family="smol", root_key=str(tmp_path / "root.pub"))
    known = family_catalogue(settings)
    assert known is not None
    assert known.family == "smol"
    assert known.catalogue is None
    assert family_catalogue(FamilyOptions()) is None
    (tmp_path / "flexspec-mq" / "families").mkdir(parents=True)
    (tmp_path / "flexspec-mq" / "families" / "smol.catalogue").write_bytes(b"damaged")
    with pytest.raises(Exception, match="is damaged") as found:
        family_catalogue(settings)
    assert "remove it" in str(found.value)
    with pytest.raises(UsageError, match="holds no public key"):
        family_catalogue(FamilyOptions(family="smol", root_key=__file__))


@pytest.mark.usefixtures("no_home")
def test_a_user_without_a_home_has_to_say_where_the_state_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this user has no home") as found:
        family_catalogue(FamilyOptions(family="smol", root_key=KEY))
    assert "--state-dir" in found.value.hint
    with pytest.raises(UsageError, match="this user has no home"):
        FamilySettings(family="smol", root_key=KEY).folder.exists()
    assert FamilySettings(family="smol", root_key=KEY, state_dir=tmp_path).folder == tmp_path
    assert family_catalogue(FamilyOptions(family="smol", root_key=KEY, state_dir=tmp_path)) is not None

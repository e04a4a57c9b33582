"""The groups in which workers share opens, and that a worker joins those that it was given."""

from pathlib import Path

import pytest

from cloud_worker.__main__ import main
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from flexspec_mq.errors import UsageError
from flexspec_mq.share_groups import ShareGroups, new_groups, read_groups
from flexspec_mq.transport.base import LinkSettings
from tests.daemons import FakeEngine


def file(folder: Path, groups: ShareGroups) -> Path:
    path = folder / "share-groups"
    path.write_text(groups.text())
    return path


def shares(settings: WorkerSettings) -> list[str]:
    worker = CloudWorker(settings, FakeEngine())
    found = worker.link_settings(LinkSettings(client_id="w")).subscriptions
    return [one.filter for one in found if one.filter.startswith("$share/")]


def test_without_a_file_all_are_in_one_group() -> None:
    assert shares(WorkerSettings(worker="w", version="v1")) == ["$share/w/f1/o/v1/+"]


def test_with_a_file_the_group_is_that_of_the_version(tmp_path: Path) -> None:
    groups = new_groups()
    path = file(tmp_path, groups.only(("v1", "v2")))
    settings = WorkerSettings(worker="w", version="v1", share_groups=path)
    assert shares(settings) == [f"$share/{groups.group_of('v1')}/f1/o/v1/+"]
    assert groups.group_of("v1") != groups.group_of("v2")
    assert len(groups.group_of("v1")) == 32


def test_pinned_workers_and_those_of_any_version_share_a_group(tmp_path: Path) -> None:
    groups = new_groups()
    pinned = read_groups(file(tmp_path, groups.only(("v1",))))
    every = read_groups(file(tmp_path, groups.only(())))
    assert pinned.group_of("v1") == every.group_of("v1") == groups.group_of("v1")
    assert not pinned.key
    assert groups.key not in repr(every)
    assert new_groups().group_of("v1") != groups.group_of("v1")


def test_a_worker_does_not_serve_what_it_has_no_group_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, new_groups().only(("v1",)))
    assert main(["--version", "v2", "--share-groups", str(path)]) == 2
    said = capsys.readouterr().err
    assert "no group for version v2" in said
    assert "lets this worker serve v1" in said


async def test_nor_a_version_that_comes_later(tmp_path: Path) -> None:
    path = file(tmp_path, new_groups().only(("base",)))
    worker = CloudWorker(WorkerSettings(worker="w", share_groups=path), FakeEngine())
    await worker.open_version("base-2")
    assert len(worker.link_settings(LinkSettings(client_id="w")).subscriptions) == 3


@pytest.mark.parametrize("text", ["", "v1", "v1 a b", "* no-hexadecimal", "a/b group", "v1 a/b", "\xff"])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "share-groups"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="--share-groups"):
        read_groups(path)
    with pytest.raises(UsageError, match="--share-groups"):
        read_groups(tmp_path / "nowhere")

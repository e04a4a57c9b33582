"""The units say nothing that the daemons, their settings or systemd do not know."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flexspec_mq.errors import LinkRefused, ModelError, UsageError
from tests.deploy.files import PROGRAMS, UNITS, commands, handed, seconds, settings, unit

ids = [path.name for path in UNITS]


@pytest.mark.parametrize("path", UNITS, ids=ids)
def test_the_daemons_know_every_flag_and_every_key_of_the_file(path: Path) -> None:
    for command in commands(path):
        loaded = settings(command)
        assert (loaded.file is None) == ("broker" in path.name)  # its file is in its own folder


@pytest.mark.parametrize("path", UNITS, ids=ids)
def test_exit_codes_that_do_not_mend_themselves(path: Path) -> None:
    said = unit(path)
    assert said["Restart"] == ["on-failure"]
    wanted = [UsageError.exit_code, ModelError.exit_code]
    if "broker" in path.name:
        assert (
            "StartLimitBurst" in said
        )  # a broker that cannot start may find its port free later, but not for ever
    else:
        wanted.append(LinkRefused.exit_code)
    assert said["RestartPreventExitStatus"] == [" ".join(map(str, wanted))]
    assert said["KillSignal"] == ["SIGTERM"]


def test_a_worker_has_time_to_drain() -> None:
    (path,) = [path for path in UNITS if "cloud" in path.name]
    drain = settings(commands(path)[0]).settings.worker.drain
    assert seconds(unit(path)["TimeoutStopSec"][0]) > drain + 5


@pytest.mark.parametrize("path", UNITS, ids=ids)
def test_a_password_is_on_no_command_line_and_in_no_environment(path: Path) -> None:
    said = unit(path)
    assert not any("PASSWORD" in value for value in said.get("Environment", []))
    if "broker" not in path.name:
        given = dict(credential.split(":") for credential in said["LoadCredential"])
        (config,) = [name for name in given if name.endswith(".toml")]
        assert f"--config %d/{config}" in said["ExecStart"][0]
        # All files that the broker hands out, side by side as there: the settings name them by their file names.
        assert set(given) == {path.name for path in handed(config).parent.iterdir()}
        assert {Path(file).name for file in given.values()} == set(given)
        assert len({Path(file).parent for file in given.values()}) == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", UNITS, ids=ids)
def test_systemd_accepts_them(path: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (*PROGRAMS, "mosquitto"):  # verify wants programs that are there
        (programs / name).symlink_to("/bin/true")
    text = (
        path.read_text().replace("/opt/flexspec/bin/", f"{programs}/").replace("/usr/sbin/", f"{programs}/")
    )
    copy = tmp_path / path.name
    copy.write_text(text)
    done = analyze("verify", "--man=no", str(copy))
    assert (done.returncode, done.stderr) == (0, "")
    # From 0, nothing is allowed, to 100, everything is.
    done = analyze("security", "--offline=true", "--threshold=20", str(copy))
    assert done.returncode == 0, done.stdout


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

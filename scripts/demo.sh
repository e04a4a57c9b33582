#!/usr/bin/env bash
# Turns `make demo PROMPT=… CHAT=… LINK=… OUTAGE=…` into arguments of the demo. The values come through the environment, so
# quotes, $ and newlines arrive unharmed; a value given as empty is passed on as empty.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
args=()
case "${FLEXSPEC_MAKE_CHAT:-0}" in
    0 | no | false) ;;
    *) args+=(--chat) ;;
esac
if [ -n "${FLEXSPEC_MAKE_LINK:-}" ]; then args+=("--link=$FLEXSPEC_MAKE_LINK"); fi
if [ -n "${FLEXSPEC_MAKE_OUTAGE:-}" ]; then args+=("--outage=$FLEXSPEC_MAKE_OUTAGE"); fi
if [ -n "${FLEXSPEC_MAKE_PROMPT+set}" ]; then args+=("--prompt=$FLEXSPEC_MAKE_PROMPT"); fi
exec "${FLEXSPEC_PYTHON:-.venv/bin/python}" -m flexspec_mq.cli demo ${args[@]+"${args[@]}"}

#!/usr/bin/env bash
# Turns `make demo PROMPT=… CHAT=… LINK=… OUTAGE=… PAIR=…` into arguments of the demo. The values come through the
# environment, so quotes, $ and newlines arrive unharmed; a value given as empty is passed on as empty.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
args=()
case "${FLEXSPEC_MAKE_CHAT:-0}" in
    0 | no | false) ;;
    *) args+=(--chat) ;;
esac
if [ -n "${FLEXSPEC_MAKE_LINK:-}" ]; then args+=("--link=$FLEXSPEC_MAKE_LINK"); fi
if [ -n "${FLEXSPEC_MAKE_PAIR:-}" ]; then args+=("--pair=$FLEXSPEC_MAKE_PAIR"); fi
if [ -n "${FLEXSPEC_MAKE_OUTAGE:-}" ]; then args+=("--outage=$FLEXSPEC_MAKE_OUTAGE"); fi
if [ -n "${FLEXSPEC_MAKE_PROMPT+set}" ]; then args+=("--prompt=$FLEXSPEC_MAKE_PROMPT"); fi
# make(1) keeps a SIGINT that it alone is sent, blocked, until its recipe ends: the demo ends by it then (Linux).
while sleep 0.2 && kill -0 $$ 2>/dev/null; do
    if grep -q '^SigBlk:.*[2367abef]$' "/proc/$PPID/status" 2>/dev/null; then kill -INT $$ && break; fi
done </dev/null &
exec "${FLEXSPEC_PYTHON:-.venv/bin/python}" -m flexspec_mq.cli demo ${args[@]+"${args[@]}"}

#!/bin/sh
# An option, a file or a name that is no command goes to node; a command is run as it is.
set -e
case ${1-} in
-* | '') set -- node "$@" ;;
*) if [ -f "$1" ] && [ ! -x "$1" ] || ! command -v "$1" >/dev/null; then set -- node "$@"; fi ;;
esac
exec "$@"

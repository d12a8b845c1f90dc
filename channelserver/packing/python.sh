#!/bin/sh
# The interpreter, with its libraries. Started by the head, and by the site for further processes.
here=$(readlink -f -- "$0")
here=${here%/bin/*}
export PACKED_LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"
export LD_LIBRARY_PATH="$here/lib/shared" PYTHONHOME="$here" PYTHONDONTWRITEBYTECODE=1
export PYTHONTZPATH="/usr/share/zoneinfo:$here/share/zoneinfo"
exec "$here/bin/@PYTHON@" "$@"

#!/bin/sh
# check_python.sh PYTHON: fails, and prints what to do, unless PYTHON can create the council's environment.
# This is a shell script because it runs where Python is too old or missing.

# 0: suitable; 1: not found; 2: too old; 3: without the modules that create environments.
try() {
  "$1" -c 'import sys; sys.exit(0)' 2>/dev/null || return 1
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || return 2
  "$1" -c 'import ensurepip, venv' 2>/dev/null || return 3
}

try "$1"
case $? in
  0) exit 0 ;;
  1) wrong="$1 was not found" ;;
  2) wrong="$1 is $("$1" -V 2>&1)" ;;
  3) wrong="$1 lacks the modules venv and ensurepip" help=" On Debian and Ubuntu: apt install python3-venv." ;;
esac
for other in python3.13 python3.12 python3.11 python3; do
  if try "$other"; then
    echo "council: Python 3.11 or newer with venv is needed, and $wrong. Write \`make run PYTHON=$other\`." >&2
    exit 1
  fi
done
echo "council: Python 3.11 or newer with venv is needed, and $wrong. Install one, then write \`make run PYTHON=…\`.$help" >&2
exit 1

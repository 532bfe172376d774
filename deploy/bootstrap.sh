#!/bin/bash
# Get this machine ready for the Makefile. Usage:
#   bootstrap.sh python                  print a Python that offhook runs on; install Debian's when there is none
#   bootstrap.sh system COMMAND:PACKAGE  install the packages whose command (or library, lib….so.N) is missing
# Installs with apt-get, as root or through sudo, and only what is missing. What it cannot install it names, with the
# command to type.
set -euo pipefail

say() { echo "offhook: $*" >&2; }

# Packages by name; the log is shown only when something went wrong.
apt_install() {
  local as_root=() log
  if ! command -v apt-get >/dev/null; then
    say "needs these Debian packages, and there is no apt-get here: $*"
    say "install what your system calls them, then run make again"
    return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
      say "needs root for: apt-get install $*"
      say "run that as root, then run make again"
      return 1
    fi
    as_root=(sudo)
  fi
  say "installing $* (apt-get)"
  log=$(mktemp)
  # An empty machine has no package lists, an old one has lists whose files are gone: refresh them either way.
  if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } \
    >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    say "could not install: $*"
    return 1
  fi
  rm -f "$log"
}

# Runs, is new enough, and can make a virtual environment (Debian splits ensurepip into python3-venv).
usable() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 \
    "$HOME"/.pyenv/versions/3.1[123].*/bin/python3 /usr/bin/python3; do
    if usable "$candidate"; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

case "${1:-}" in
python)
  if ! find_python; then
    say "found no Python 3.11, 3.12 or 3.13 that can make a virtual environment"
    apt_install python3 python3-venv || exit 1
    if ! find_python; then
      say "this system's python3 does not fit; install Python 3.11, 3.12 or 3.13 and run: make PYTHON=python3.12"
      exit 1
    fi
  fi
  ;;
system)
  shift
  # PostgreSQL's server programs are not on PATH on Debian, nor are ldconfig and other servers for everybody.
  PATH="$PATH:/usr/sbin:/sbin:$(echo /usr/lib/postgresql/*/bin | tr ' ' ':')"
  missing=()
  for pair in "$@"; do
    case "$pair" in
    lib*.so.*) ldconfig -p | grep -qF "${pair%%:*} " || missing+=("${pair#*:}") ;;
    *) command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}") ;;
    esac
  done
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
  ;;
*)
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac

#!/usr/bin/env bash
# Get the programs, other than Python's, that tests drive: Prometheus and Chromium. Run by
# `make test` with the environment's folder. Prometheus is only unpacked into $1, because installing
# its package would start a service; Chromium needs the system's libraries and is installed.
set -euo pipefail
venv=$1
bin=$venv/bin

missing=()
{ PATH=$bin:$PATH command -v prometheus && PATH=$bin:$PATH command -v promtool; } > /dev/null ||
  missing+=(prometheus)
command -v chromium > /dev/null || missing+=(chromium)
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get > /dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "programs: the tests that need ${missing[*]} will fail: install them (Debian's packages of" >&2
  echo "programs: these names), or run make as root where apt-get is" >&2
  exit 0
fi
echo "programs: getting ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
for package in "${missing[@]}"; do
  if [ "$package" = prometheus ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb .)
    install -m 755 "$work/usr/bin/prometheus" "$work/usr/bin/promtool" "$bin/"
  else
    apt-get install -qq --no-install-recommends -y "$package" > "$venv/apt.log" || {
      cat "$venv/apt.log" >&2
      exit 1
    }
  fi
done

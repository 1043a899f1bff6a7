#!/usr/bin/env bash
# Get the programs, other than Python's, that tests drive: Prometheus, Chromium and ip, by which
# tests make networks. Run by `make test` with the environment's folder. Prometheus is only unpacked into $1, because installing
# its package would start a service; Chromium needs the system's libraries and is installed.
# Never fails: without a program, the tests that need it fail and say what to do (without ip, the
# tests with several machines are skipped).
set -uo pipefail
venv=$1
bin=$(cd "$venv/bin" && pwd)
export PATH=$bin:$PATH DEBIAN_FRONTEND=noninteractive

has() { command -v "$1" > /dev/null; }

get_prometheus() {
  local work
  work=$(mktemp -d) &&
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root prometheus &&
      dpkg -x prometheus_*.deb . &&
      install -m 755 usr/bin/prometheus usr/bin/promtool "$bin/")
  local rc=$?
  rm -rf "$work"
  return $rc
}

get_chromium() { apt-get install -qq --no-install-recommends -y chromium > "$venv/apt.log"; }

get_iproute2() { apt-get install -qq --no-install-recommends -y iproute2 > "$venv/apt-ip.log"; }

missing=()
{ has prometheus && has promtool; } || missing+=(prometheus)
has chromium || missing+=(chromium)
has ip || missing+=(iproute2)
[ ${#missing[@]} -gt 0 ] || exit 0

if ! has apt-get || [ "$(id -u)" -ne 0 ]; then
  echo "programs: the tests that need ${missing[*]} will fail: install what has these names in" >&2
  echo "programs: Debian, or run make as root where apt-get is" >&2
  exit 0
fi
echo "programs: getting ${missing[*]}"
apt-get update -qq
for package in "${missing[@]}"; do
  "get_$package" || echo "programs: $package could not be had; the tests that need it will fail" >&2
done
exit 0

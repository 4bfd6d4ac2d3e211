#!/usr/bin/env bash
# Installs Debian's chromium, which the studio's browser tests drive; where it cannot, it says so and they are skipped.
command -v chromium >/dev/null && exit 0
say() { echo "chromium: $1; the studio's browser tests will be skipped" >&2; exit 0; }
command -v apt-get >/dev/null || say "it is not there, and this system has no apt-get"
[ "$(id -u)" = 0 ] || say "it is not there, and only root may apt-get install it"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >"$log" 2>&1 ||
  say "apt-get could not install it ($(grep -m1 '^E:' "$log" || tail -n1 "$log"))"

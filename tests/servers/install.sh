#!/usr/bin/env bash
# Installs what some tests run for real (Slurm with munge, PostgreSQL, Chromium, what Jittor compiles with, zsh, fish) on
# Debian or Ubuntu as root.
# Without root, apt-get or a network nothing is installed, and the tests that need them skip and say so.
set -uo pipefail

missing=()
command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v sbatch >/dev/null || missing+=(slurm-wlm)
command -v munged >/dev/null || missing+=(munge)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
command -v chromedriver >/dev/null || missing+=(chromium chromium-driver)
command -v g++ >/dev/null || missing+=(g++)
compgen -G '/usr/include/python3*/Python.h' >/dev/null || missing+=(python3-dev)
[ -f /usr/include/dnnl.hpp ] || missing+=(libdnnl-dev)
command -v zsh >/dev/null || missing+=(zsh)
command -v fish >/dev/null || missing+=(fish)
[ ${#missing[@]} -eq 0 ] && exit 0

skip() { echo "servers for tests not installed (${missing[*]}): $1; the tests that need them will skip"; exit 0; }
[ "$(id -u)" -eq 0 ] || skip "not root"
command -v apt-get >/dev/null || skip "no apt-get"

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing ${missing[*]} for the tests"
timeout 300 sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"' sh "${missing[@]}" \
  >"$log" 2>&1 </dev/null || { tail -5 "$log"; skip "apt-get failed, see above"; }

#!/usr/bin/env bash
# Runs a command in Debian 13, whose Slurm is 24.11 and whose Python is 3.13, with this checkout in /trex. Needs root.
#
#     tools/debian13.sh make check
#     tools/debian13.sh                     a shell
#
# The first call installs that Debian in build/debian-13, and its first `make` the Python packages there: 8 GB in all. To
# install it again: rm -r build/debian-13. The mounts are seen only by the command and by processes that outlive it, such
# as those of `make cluster-up`; later commands share the mounts of these. They end with the last process.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd -P)
root=$checkout/build/debian-13
packages=ca-certificates,gcc,git,iproute2,libc6-dev,make,procps,python3,python3-venv
packages+=,slurm-wlm,slurmdbd,munge,mariadb-server,dataset-fashion-mnist
mirror=${MIRROR:-http://deb.debian.org/debian}

stop() { echo "debian13.sh: error: $1" >&2; exit 2; }

[ "$(id -u)" = 0 ] || stop "this needs root: start it with sudo"
command -v mmdebstrap > /dev/null || stop "mmdebstrap is missing: apt-get install --no-install-recommends mmdebstrap"

if [ ! -e "$root/trex" ]; then
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    echo "==> installing Debian 13 in $root (once; takes some minutes)" >&2
    mmdebstrap --quiet --variant=minbase --include=$packages --aptopt='APT::Install-Recommends "false"' trixie "$root" "$mirror"
    mkdir "$root/build" "$root/trex" # the last step, so an installation that was interrupted begins again
fi
# The network as it is today, and the certificates that this machine trusts.
for file in /etc/hosts /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$file" ] || cp "$file" "$root$file"
done

export VENV=/venv PATH=/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
unset TMPDIR SLURM_CONF
[ $# -gt 0 ] || set -- bash

for process in /proc/[0-9]*; do # a sandbox that runs in there: its folders are seen only with its mounts
    if [ "$process/root" -ef "$root" ]; then
        exec nsenter --target "${process#/proc/}" --mount --root env --chdir=/trex "$@"
    fi
done
# A name space of its own, so its mounts end with its last process, whatever ends it.
exec unshare --mount bash -c '
    checkout=$1 root=$2 && shift 2
    mount --bind "$checkout" "$root/trex"
    mount --bind "$root/build" "$root/trex/build" # what is built here does not fit there, nor this Debian into itself
    for folder in dev sys; do mount --rbind "/$folder" "$root/$folder"; done
    mount -t proc proc "$root/proc"
    exec chroot "$root" env --chdir=/trex "$@"
' mounts "$checkout" "$root" "$@"

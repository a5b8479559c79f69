#!/bin/bash
# Runs the files and commands of a page of docs/recipes against the real programs,
# as root, on a copy of this machine's root file system and in a network of its
# own, both of which go when it ends: run.sh BINARIES RECIPE. The recipe is a
# script beside this one, which takes what it runs from the page. Exit status 77:
# a program is missing, or no namespaces can be had.
set -euo pipefail
if [ "${3:-}" != inside ]; then
  root=$(mktemp -d /tmp/samara-recipe-XXXXXX)
  trap 'rm -rf --one-file-system "$root"' EXIT
  unshare --mount --net --pid --uts --fork --kill-child "$0" "$1" "$2" inside "$root" || exit
  exit 0
fi

here=$(cd "$(dirname "$0")" && pwd)
docs=$(cd "$here/../../docs" && pwd)
binaries=$(cd "$1" && pwd)
recipe=$2
copy() { # everything but what is where content and scratch files are
  mount -t tmpfs tmpfs "$1"
  cd "$1"
  mkdir upper work root
  mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
  cd root
  mount -t proc proc proc
  mkdir -p var/lib/containers
  for d in run tmp var/lib/containers; do mount -t tmpfs tmpfs $d; done
  mount --rbind /dev dev
  mount --rbind /sys sys
  mkdir -p run/docs run/here run/netns
  mount --bind "$docs" run/docs
  mount --bind "$here" run/here
  cp "$binaries"/{seeder,peerd} usr/local/bin/
  rm -rf etc/samara var/lib/samara root/.docker
  rm -f run/nologin
  mkdir .old
  pivot_root . .old
  umount -l /.old
  rmdir /.old
}
mount --make-rprivate / && copy "$4" || { echo "no copy of the root file system can be made here"; exit 77; }
cd /root
ip link set lo up
export HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/tmp
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY no_proxy NO_PROXY
page=/run/docs/recipes/$recipe.md
at="" # the command that runs, for errors

trap 'code=$?; [ $code = 0 ] || [ $code = 77 ] || { echo "recipe $recipe: ${at:-$BASH_COMMAND}: status $code"; tail -n 15 /tmp/log/* 2>/dev/null; }; kill $(jobs -p) 2>/dev/null; exit $code' EXIT
mkdir -p /tmp/log

needs() { # PROGRAM...
  local p
  for p in "$@"; do command -v "$p" >/dev/null || { echo "$p is missing"; exit 77; }; done
}

block() { # NAME: the fenced block of the page whose info string has this word
  awk -v want="$1" '
    /^```/ && open { open = on = 0; next }
    /^```/ { open = 1; n = split($0, words, " "); for (i = 2; i <= n; i++) if (words[i] == want) { on = 1; found = 1 } next }
    on { print }
    END { exit !found }' "$page" || { echo "$page has no block $1" >&2; return 1; }
}

file() { # PATH: writes the block that is called so to that place
  mkdir -p "$(dirname "$1")"
  block "$1" >"$1"
}

run() { # NAME: the commands of a block, each after its prompt
  local commands line
  commands=$(block "$1" | sed -n 's/^[a-z]*[$#] //p')
  [ -n "$commands" ] || { echo "block $1 has no commands"; return 1; }
  while IFS= read -r line <&3; do
    at="\$ $line"
    echo "$at"
    eval "$line"
  done 3<<<"$commands"
  at=""
}

background() { # LOG COMMAND...
  local log=/tmp/log/$1; shift
  "$@" >"$log" 2>&1 </dev/null &
}

until_ok() { # COMMAND...: within five minutes, which a loaded machine may need
  local until=$((SECONDS + 300))
  at="$*"
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { echo "not within five minutes: $*"; return 1; }
    sleep 0.1
  done
  at=""
}

expect() { # WHAT WANT GOT
  [ "$2" = "$3" ] || { echo "$1: want $2, got $3"; return 1; }
}

names() { # NAME...: of this machine
  printf '127.0.0.1 %s\n' "$@" >>/etc/hosts
}

authority() { # NAME...: a certificate for them in /etc/samara/tls.{crt,key}, which the machine trusts
  mkdir -p /etc/samara
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" -addext "subjectAltName=$(printf 'DNS:%s,' "$@" | sed 's/,$//')" \
    -keyout /etc/samara/tls.key -out /etc/samara/tls.crt 2>/dev/null
  cat /etc/samara/tls.key /etc/samara/tls.crt >/etc/samara/tls.pem
  cat /etc/samara/tls.crt >>/etc/ssl/certs/ca-certificates.crt
}

image() { # DIR MIB: a layout with one layer of random bytes, tag v1
  mkdir -p "$1/blobs/sha256"
  local diff layer config manifest size
  mkdir /tmp/layer && head -c "$2M" /dev/urandom >/tmp/layer/file
  tar -C /tmp/layer -cf "$1/tar" file && rm -r /tmp/layer
  diff=$(sha256sum <"$1/tar" | cut -c1-64)
  gzip -1 <"$1/tar" >"$1/layer" && rm "$1/tar" # what is not compressed skopeo compresses
  layer=$(sha256sum <"$1/layer" | cut -c1-64); size=$(stat -c %s "$1/layer"); mv "$1/layer" "$1/blobs/sha256/$layer"
  printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$diff" >"$1/config"
  config=$(sha256sum <"$1/config" | cut -c1-64)
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%d}]}' \
    "$config" "$(stat -c %s "$1/config")" "$layer" "$size" >"$1/manifest"
  mv "$1/config" "$1/blobs/sha256/$config"
  manifest=$(sha256sum <"$1/manifest" | cut -c1-64); size=$(stat -c %s "$1/manifest"); mv "$1/manifest" "$1/blobs/sha256/$manifest"
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%d,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}' "$manifest" "$size" >"$1/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$1/oci-layout"
  echo "sha256:$layer"
}

registry() { # ADDRESS DIR: Debian's docker-registry
  needs docker-registry
  printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: "%s"}\n' "$2" "$1" >"/tmp/registry-$1.yaml"
  background "registry-$1" docker-registry serve "/tmp/registry-$1.yaml"
  until_ok curl -sf "http://$1/v2/"
}

mkdir -p /etc/containers
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json
. "/run/here/$recipe.sh"

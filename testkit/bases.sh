#!/bin/bash
# Makes the base images of the tests from Debian packages.
#
#   testkit/bases.sh [DIR]        (default: target/bases of this workspace)
#
# The last line printed is the finished folder. It holds
#
#   oci/        one OCI layout with the tags busybox, debian, python, node and gcc
#   registry/   the storage of a docker-registry that already has them:
#               busybox:latest debian:12-slim python:slim node:slim gcc:12
#
# A finished folder is used again: its name is the digest of this script and of the
# settings below. Two callers at once are safe; the second waits for the first.
#
# What a machine needs to reach the package archives (its certificates, proxies, mirrors)
# is copied from the machine into every image, so that no Dockerfile has to know of it.
#
# Needs root and Debian's mmdebstrap, umoci, skopeo, docker-registry, busybox-static, curl.
set -euo pipefail
export LC_ALL=C.UTF-8
umask 022
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-${CARGO_TARGET_DIR:-$here/../target}/bases}
# Somebody may hand us what we printed the last time.
if [ -e "$out/done" ]; then
    echo "$out"
    exit 0
fi
suite=bookworm
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { printf 'bases: %s\n' "$*" >&2; }

# ---- the machine's own settings, as files of an image ------------------------

# First value of an INI-like setting in any of the files that exist.
setting() { # KEY FILE...
    local key=$1
    shift
    sed -n "s/^[[:space:]]*$key[[:space:]]*=[[:space:]]*//p" "$@" 2>/dev/null | head -n 1 || true
}

write_settings() { # ROOT
    local root=$1 ca key value
    mkdir -p "$root/etc/apt/apt.conf.d" "$root/etc/ssl/certs"
    ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
    [ ! -s "$ca" ] || cp --remove-destination "$ca" "$root/etc/ssl/certs/ca-certificates.crt"

    apt-config dump 2>/dev/null |
        grep -E '^Acquire::(Check-|https?::(Proxy|CaInfo|Verify))' >"$root/etc/apt/apt.conf.d/99machine" || true
    if [ -n "${http_proxy:-}" ]; then
        echo "Acquire::http::Proxy \"$http_proxy\";" >>"$root/etc/apt/apt.conf.d/99machine"
    fi

    local pip=(/etc/pip.conf "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf")
    {
        echo "[global]"
        echo "cert = /etc/ssl/certs/ca-certificates.crt"
        for key in index-url extra-index-url trusted-host proxy; do
            local variable=PIP_${key^^}
            variable=${variable//-/_}
            value=${!variable:-$(setting "$key" "${pip[@]}")}
            [ "$key" != proxy ] || value=${value:-${https_proxy:-}}
            [ -z "$value" ] || echo "$key = $value"
        done
    } >"$root/etc/pip.conf"

    local npm=("$HOME/.npmrc" /usr/etc/npmrc /usr/local/etc/npmrc /etc/npmrc)
    {
        echo "cafile=/etc/ssl/certs/ca-certificates.crt"
        for key in registry proxy https-proxy strict-ssl; do
            value=$(setting "$key" "${npm[@]}")
            [ "$key" != https-proxy ] || value=${value:-${https_proxy:-}}
            [ -z "$value" ] || echo "$key=$value"
        done
    } >"$root/etc/npmrc"
}

# The archive this machine installs the suite from, or Debian's own.
mirror() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite=$suite '$2 == suite && $3 == "main" { print $1; exit }' || true
}

# ---- one finished folder per script and settings ------------------------------

mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.lock"
flock 9
work=$(mktemp -d "$out/.making.XXXXXX")
registry_pid=
cleanup() {
    [ -z "$registry_pid" ] || kill "$registry_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
mkdir "$work/settings"
write_settings "$work/settings"
key=$( (cat "$0"; mirror; cd "$work/settings" && find . -type f | sort | xargs cat) | sha256sum | cut -c1-16)
final=$out/$key
if [ -e "$final/done" ]; then
    echo "$final"
    exit 0
fi
[ "$(id -u)" = 0 ] || { say "making base images needs root"; exit 1; }
for tool in mmdebstrap umoci skopeo docker-registry busybox curl; do
    command -v $tool >/dev/null || { say "$tool is missing; testkit/run.sh installs what the tests need"; exit 1; }
done
say "making $final (a few minutes, once)"

# ---- layers --------------------------------------------------------------------

layout=$work/oci
umoci init --layout "$layout"

configure() { # TAG CMD [ENV...]
    local tag=$1 cmd=$2 variable arguments=()
    shift 2
    for variable in "PATH=$path" "$@"; do arguments+=(--config.env "$variable"); done
    umoci config --image "$layout:$tag" --architecture amd64 --os linux --config.cmd "$cmd" "${arguments[@]}"
}

new_image() { # TAG BUNDLE: an empty image, unpacked
    umoci new --image "$layout:$1"
    umoci unpack --image "$layout:$1" "$2"
}

make_busybox() {
    local root=$work/busybox/rootfs applet
    new_image busybox "$work/busybox"
    mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp,usr/bin,var/log}
    chmod 1777 "$root/tmp"
    chmod 700 "$root/root"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\nwheel:x:10:root\nnogroup:x:65534:\n' >"$root/etc/group"
    umoci repack --image "$layout:busybox" "$work/busybox"
    configure busybox sh
    rm -rf "$work/busybox"
}

make_debian() {
    local root=$work/debian/rootfs source exclude options=()
    new_image debian "$work/debian"
    for exclude in man info doc locale lintian; do options+=(--dpkgopt="path-exclude=/usr/share/$exclude/*"); done
    # A merged /usr from the start: the package that merges it later wants all of perl.
    options+=(--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged)
    while read -r option; do options+=(--aptopt="$option"); done <"$work/settings/etc/apt/apt.conf.d/99machine"
    source=$(mirror)
    mmdebstrap --quiet --variant=minbase "${options[@]}" --dpkgopt=force-unsafe-io "$suite" "$work/debian.tar" \
        ${source:+"$source"} >"$work/mmdebstrap.log" 2>&1 || { tail -n 30 "$work/mmdebstrap.log" >&2; return 1; }
    tar --numeric-owner --xattrs --xattrs-include='security.capability' --exclude='./dev/*' \
        -C "$root" -xf "$work/debian.tar"
    rm -rf "$work/debian.tar" "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/*.log
    rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
    write_settings "$root"
    umoci repack --refresh-bundle --image "$layout:debian" "$work/debian"
    configure debian bash
}

# Installs packages on top of the debian image, as one more layer.
make_derived() { # TAG PACKAGES SNIPPET
    local tag=$1 bundle=$work/$1
    cp -a "$work/debian" "$bundle"
    unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
        root=$1
        mount -t proc proc "$root/proc"
        mount -t tmpfs tmpfs "$root/tmp"
        mount --rbind /dev "$root/dev"
        cp --remove-destination "$(readlink -f /etc/resolv.conf)" "$root/etc/resolv.conf"
        printf "#!/bin/sh\nexit 101\n" >"$root/usr/sbin/policy-rc.d"
        chmod 755 "$root/usr/sbin/policy-rc.d"
        export DEBIAN_FRONTEND=noninteractive HOME=/root PATH=$4
        chroot "$root" apt-get -qq update
        chroot "$root" apt-get -qq -o Dpkg::Options::=--force-unsafe-io install -y --no-install-recommends $2
        chroot "$root" sh -ec "$3"
    ' _ "$bundle/rootfs" "$2" "$3" "$path" >"$work/$tag.log" 2>&1 </dev/null ||
        { tail -n 30 "$work/$tag.log" >&2; return 1; }
    (
        cd "$bundle/rootfs"
        rm -rf var/lib/apt/lists/* var/cache/apt/*.bin var/cache/apt/archives/*.deb var/cache/ldconfig/aux-cache
        rm -rf var/log/*.log var/log/apt etc/resolv.conf usr/sbin/policy-rc.d
    )
    write_settings "$bundle/rootfs"
}

finish() { # TAG CMD [ENV...]: packs what make_derived left (one at a time: the layout has one index)
    umoci repack --image "$layout:$1" "$work/$1"
    configure "$@"
    rm -rf "${work:?}/$1"
}

say "busybox"
make_busybox
say "debian"
make_debian
say "python, node, gcc"
make_derived node "nodejs npm" true &
node=$!
make_derived python "ca-certificates python3 python3-pip python-is-python3" \
    'rm -f /usr/lib/python3*/EXTERNALLY-MANAGED; find / -xdev -name __pycache__ -prune -exec rm -rf {} +'
finish python python3 LANG=C.UTF-8
make_derived gcc "gcc libc6-dev make" true
finish gcc bash
wait $node
finish node node
umoci gc --layout "$layout"

# ---- the registry's storage ------------------------------------------------------

say "a registry with all of them"
cat >"$work/registry.yml" <<E
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:0"}
E
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry_pid=$!
port=
for _ in $(seq 200); do
    # The kernel chose the port; the process's sockets say which.
    port=$(ss -ltnpH 2>/dev/null | grep "pid=$registry_pid," | sed -E 's/.*127\.0\.0\.1:([0-9]+).*/\1/' | head -n 1 || true)
    [ -n "$port" ] && curl -fsS "http://127.0.0.1:$port/v2/" >/dev/null 2>&1 && break
    sleep 0.05
done
[ -n "$port" ] || { cat "$work/registry.log" >&2; say "the registry did not start"; exit 1; }
for pair in busybox=busybox:latest debian=debian:12-slim python=python:slim node=node:slim gcc=gcc:12; do
    skopeo copy -q --insecure-policy --dest-tls-verify=false \
        "oci:$layout:${pair%%=*}" "docker://127.0.0.1:$port/${pair#*=}"
done
kill "$registry_pid"
wait "$registry_pid" 2>/dev/null || true
registry_pid=

mkdir -p "$work/finished"
mv "$layout" "$work/registry" "$work/finished/"
touch "$work/finished/done"
rm -rf "$final"
mv "$work/finished" "$final"
echo "$final"

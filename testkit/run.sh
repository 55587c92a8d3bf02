#!/bin/bash
# Runs everything that must hold of this tree: formatting, lints, documentation, dependency
# rules, the static release binary, and all tests, those on real parts included.
#
#   testkit/run.sh [FILTER...]      filters go to the test runner
#
# What the tests need from Debian is installed first, if it is missing and we may. The base
# images are made once and kept in target/bases.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
export LC_ALL=C.UTF-8 CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
step() { printf '\n== %s\n' "$*"; }

# ---- Debian packages ----------------------------------------------------------------------

# PROGRAM PACKAGE
programs='
    docker-registry docker-registry
    skopeo skopeo
    umoci umoci
    runc runc
    podman podman
    busybox busybox-static
    mmdebstrap mmdebstrap
    curl curl
    ss iproute2
    git git
    cc gcc
    ssh-agent openssh-client
    sshd openssh-server
    openssl openssl
    qemu-aarch64-static qemu-user-static
    readelf binutils
    setpriv util-linux
    strace strace
    mkfs.xfs xfsprogs
    filefrag e2fsprogs
    newuidmap uidmap
    nft nftables
    iptables-legacy iptables
    pasta passt
    slirp4netns slirp4netns
'
# runc and mount helpers live where an ordinary user's path does not look.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=()
while read -r program package; do
    [ -z "$program" ] || command -v "$program" >/dev/null || missing+=("$package")
done <<<"$programs"
# A busybox that is not static (the plain package) is of no use as an image.
if command -v busybox >/dev/null && grep -q -e /ld-linux -e /ld-musl "$(command -v busybox)"; then
    missing+=(busybox-static)
fi

install_packages() {
    local sudo=() policy=/usr/sbin/policy-rc.d ours= status=0
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "not root, no sudo: install ${missing[*]} first" >&2; return 1; }
        sudo=(sudo -n)
    fi
    # The registry's package would start a service on its usual port. Not here.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
        "${sudo[@]}" chmod 755 $policy
        ours=1
    fi
    "${sudo[@]}" apt-get -qq update &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null || status=$?
    [ -z "$ours" ] || "${sudo[@]}" rm -f $policy
    return $status
}
if [ ${#missing[@]} -gt 0 ]; then
    step "installing ${missing[*]}"
    install_packages
fi

# ---- a Rust that is new enough --------------------------------------------------------------

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
new_enough() { # TOOLCHAIN (empty: the default)
    local with=(env ${1:+"RUSTUP_TOOLCHAIN=$1"}) have
    have=$("${with[@]}" cargo --version 2>/dev/null | awk '{print $2}')
    [ -n "$have" ] && [ "$(printf '%s\n' "$wanted" "${have%%-*}" | sort -V | head -n 1)" = "$wanted" ] &&
        "${with[@]}" cargo fmt --version >/dev/null 2>&1 &&
        "${with[@]}" cargo clippy --version >/dev/null 2>&1
}
chosen=none
if [ -n "${RUSTUP_TOOLCHAIN:-}" ] && new_enough "$RUSTUP_TOOLCHAIN"; then
    chosen=$RUSTUP_TOOLCHAIN
else
    unset RUSTUP_TOOLCHAIN
    for toolchain in "" $(rustup toolchain list 2>/dev/null | awk '{print $1}' | grep -v nightly || true); do
        if new_enough "$toolchain"; then
            chosen=$toolchain
            break
        fi
    done
fi
[ "$chosen" != none ] || { echo "no Rust $wanted or newer with rustfmt and clippy here" >&2; exit 1; }
[ -z "$chosen" ] || export RUSTUP_TOOLCHAIN=$chosen
cargo --version

# ---- the checks -------------------------------------------------------------------------------

step "formatting"
cargo fmt --all --check

step "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

step "dependency rules"
# Documents that others hash are written in the order of our types; this feature would change maps.
if cargo tree --locked --workspace -e features -i serde_json | grep preserve_order; then
    echo "serde_json/preserve_order is switched on somewhere" >&2
    exit 1
fi

step "the release binary is one static file"
cargo build --locked --release -p kiln
binary=${CARGO_TARGET_DIR:-target}/release/kiln
if readelf -lW "$binary" | grep INTERP || readelf -dW "$binary" | grep NEEDED; then
    echo "$binary needs a loader or libraries" >&2
    exit 1
fi
"$binary" version

step "base images for the tests"
if [ "$(id -u)" = 0 ]; then
    KILN_TEST_BASES=$(testkit/bases.sh "${KILN_TEST_BASES:-target/bases}")
    export KILN_TEST_BASES
else
    echo "not root: the tests on real parts are not run"
fi

step "tests"
# Most end-to-end tests wait for others (a registry, a package archive), so more than one per core.
threads=$(($(nproc) * 2))
if cargo nextest --version >/dev/null 2>&1; then
    cargo test --locked --workspace --doc --quiet
    cargo nextest run --locked --workspace --no-fail-fast --test-threads "$threads" "$@"
else
    cargo test --locked --workspace --no-fail-fast -- --test-threads "$threads" "$@"
fi

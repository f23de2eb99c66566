# shellcheck shell=bash
# What every script shares: messages, packages, privileges, the Docker engine. Sourced, never run.
#
# Callers set `set -euo pipefail` themselves. Everything the scripts keep lies in $STATE, which `scripts/quickstart --purge` removes.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
STATE="$ROOT/.freehold"
LOGS="$STATE/log"
CACHE="$STATE/cache"
# A user's PATH on Debian lacks the system folders, where dockerd, debootstrap, iptables and mkfs are; rustup's is set by login shells.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin"
export PATH
# Queries were checked against the schema when they were written (.sqlx); a build needs no database, whatever the caller's shell names.
export SQLX_OFFLINE=true
unset DATABASE_URL

# Colours only for people.
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then BOLD=$'\e[1m' PLAIN=$'\e[0m'; else BOLD='' PLAIN=''; fi

# Prints a step's heading with the seconds since the script started.
say() { printf '%s[%3ds]%s %s\n' "$BOLD" "$SECONDS" "$PLAIN" "$*"; }

# Prints a line of detail under the last heading.
note() { printf '       %s\n' "$*"; }

# Ends the script with a message and, when a file is named after it, that file's last lines.
die() {
    printf '\nerror: %s\n' "$1" >&2
    if [ -n "${2:-}" ] && [ -s "$2" ]; then
        printf '\nThe last lines of %s:\n' "$2" >&2
        tail -n 25 "$2" | sed 's/^/    /' >&2
    fi
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "this needs root for: $*. Run the script as root, or install sudo."
    fi
}

# Makes the state folder with those below it that every script uses.
ensure_state() { mkdir -p "$LOGS" "$CACHE"; }

# Waits until a command succeeds, for at most the given seconds.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

# --- packages -------------------------------------------------------------------------------------------------------------------------

has_postgres() { command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }

# Prints the packages of those `command:package` pairs whose command is missing.
missing_packages() {
    local pair
    for pair in "$@"; do
        case "$pair" in
            postgres:*) has_postgres || echo "${pair#*:}" ;;
            *) command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}" ;;
        esac
    done | sort -u
}

# Installs the packages whose commands are missing, after saying which. Takes `command:package` pairs.
ensure_packages() {
    local missing
    missing="$(missing_packages "$@" | tr '\n' ' ')"
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null ||
        die "missing: $missing. This machine has no apt-get; install the equivalents by hand and run the script again."
    say "Installing with apt: $missing"
    ensure_state
    local log="$LOGS/apt.log" guards=()
    # The control plane starts a PostgreSQL of its own; Debian's package would make another one for the whole machine.
    has_postgres || guards+=(/etc/postgresql-common/createcluster.d/freehold.conf 'create_main_cluster = false')
    # Nothing that is installed here starts by itself: not an SSH server on a machine that had none. 101 means "not allowed".
    guards+=(/usr/sbin/policy-rc.d $'#!/bin/sh\nexit 101')
    set_guards "${guards[@]}"
    as_root apt-get update >"$log" 2>&1 || note "apt-get update complained; going on with the lists at hand (see $log)"
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >>"$log" 2>&1 </dev/null ||
        die "apt-get could not install: $missing" "$log"
    drop_guards
}

# Writes files that hold packages back while they are installed: `PATH TEXT…`. A file that is there already is somebody else's.
GUARDS=()
set_guards() {
    while [ $# -gt 0 ]; do
        if [ ! -e "$1" ]; then
            as_root mkdir -p "${1%/*}"
            printf '%s\n' "$2" | as_root tee "$1" >/dev/null
            as_root chmod 0755 "$1"
            GUARDS+=("$1")
        fi
        shift 2
    done
    trap drop_guards EXIT
}

drop_guards() {
    [ "${#GUARDS[@]}" -eq 0 ] || as_root rm -f "${GUARDS[@]}"
    GUARDS=()
    trap - EXIT
}

# Makes sure of a Rust toolchain and the C compiler that its crates need.
ensure_rust() {
    command -v cargo >/dev/null ||
        die "cargo is missing. Install Rust from https://rustup.rs (the version that rust-toolchain.toml names) and run the script again."
    ensure_packages cc:gcc ld:binutils
    [ -e /usr/include/stdio.h ] || ensure_packages no-libc-headers:libc6-dev
}

# --- Docker ---------------------------------------------------------------------------------------------------------------------------

# Runs the Docker client, with root's rights where the user may not use the engine's socket.
engine() {
    if [ -w /var/run/docker.sock ] || [ "$(id -u)" = 0 ]; then docker "$@"; else as_root docker "$@"; fi
}

engine_answers() { [ -S /var/run/docker.sock ] && engine info >/dev/null 2>&1; }

# Makes sure that a Docker engine answers at /var/run/docker.sock: installs and starts one where none runs.
ensure_docker() {
    # The agent speaks to the local engine; an image built on another one would be missing there.
    unset DOCKER_HOST DOCKER_CONTEXT
    ensure_packages docker:docker.io iptables:iptables
    # Where the kernel enforces AppArmor, Docker starts no container without the tool that loads its profile.
    ! grep -qs Y /sys/module/apparmor/parameters/enabled || ensure_packages apparmor_parser:apparmor
    [ -s /etc/ssl/certs/ca-certificates.crt ] || ensure_packages no-certificates:ca-certificates
    engine_answers || start_docker
    [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || as_root sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

start_docker() {
    command -v dockerd >/dev/null || ensure_packages dockerd:docker.io
    engine_answers && return 0
    ensure_state
    local log="$LOGS/dockerd.log"
    if [ -d /run/systemd/system ]; then
        say "Starting Docker with systemd"
        as_root systemctl start docker >"$log" 2>&1 || die "systemd could not start Docker (see: journalctl -u docker)" "$log"
    elif pgrep -x dockerd >/dev/null; then
        say "Waiting for the Docker engine that is starting"
    else
        say "Starting Docker in the background (log: $log)"
        # A session of its own, and no descriptor of ours: the engine outlives this script and whoever waits for it.
        as_root setsid sh -c 'cgroups() { grep -q " /sys/fs/cgroup" /proc/mounts; }
            cgroups || mount -t cgroup2 none /sys/fs/cgroup || true
            exec dockerd' >"$log" 2>&1 </dev/null &
        disown
    fi
    # A first start makes its storage, its bridge and its firewall rules: about ten seconds.
    wait_until 60 engine_answers || die "the Docker engine does not answer at /var/run/docker.sock" "$log"
}

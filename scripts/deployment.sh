# shellcheck shell=bash
# The one-machine deployment under ./.freehold: its ports, its background processes, its removal. Sourced, with lib.sh.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

RUN="$STATE/run"
BIN="$STATE/bin"
LIB="$STATE/lib"
SETTINGS="$STATE/settings"
AGENT_DATA="$STATE/agent"
SCRATCH="$STATE/scratch"
# Short: the path of the unix socket inside has at most 107 bytes.
CONTROL_DATA="$STATE/control"
SCENARIO="$STATE/sim/scenario/scenario.toml"
KMSG="$STATE/sim/kmsg"
# When this script started the agent; empty when it ran already.
AGENT_SINCE=
# Whose GPUs the agent offers: simulated, or real (the driver's). Chosen once and kept in $SETTINGS.
GPUS=
# What names this machine at its enrolment, beyond /etc/machine-id.
MACHINE=()

# --- background processes -------------------------------------------------------------------------------------------------------------
# A pid file holds the process id and its start time in clock ticks: together they name one process, even after the id was used again.

# Prints the start time of a process that runs; fails for one that is gone or only waits to be reaped.
started_at() {
    local fields
    fields="$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null)" || return 1
    [ -n "$fields" ] && [ "${fields%% *}" != Z ] && cut -d' ' -f20 <<<"$fields"
}

# Prints the process id of a component that runs.
pid_of() {
    local pid start
    [ -s "$RUN/$1.pid" ] && read -r pid start <"$RUN/$1.pid" && [ "$(started_at "$pid")" = "$start" ] && echo "$pid"
}

running() { pid_of "$1" >/dev/null; }

# Starts a component in a session of its own: `spawn NAME user|root COMMAND…`. Its output goes to its log.
spawn() {
    local name="$1" rights="$2" run=(setsid sh -c)
    shift 2
    [ "$rights" = root ] && run=(as_root "${run[@]}")
    rm -f "$RUN/$name.pid"
    # shellcheck disable=SC2016 # the inner shell expands it; it keeps its id and start time through exec
    "${run[@]}" 'echo "$$ $(sed "s/.*) //" /proc/$$/stat | cut -d" " -f20)" >"$0"; NO_COLOR=1 exec "$@"' "$RUN/$name.pid" "$@" \
        >>"$LOGS/$name.log" 2>&1 </dev/null &
    disown
    wait_until 10 test -s "$RUN/$name.pid" || die "$name could not be started" "$LOGS/$name.log"
}

# Stops a component: asks, waits 30 seconds, insists.
stop() {
    local pid
    if pid="$(pid_of "$1")"; then
        as_root kill -TERM "$pid" 2>/dev/null || true
        if ! wait_until 30 gone "$1"; then
            note "$1 does not stop; killing it"
            as_root kill -KILL "$pid" 2>/dev/null || true
            wait_until 10 gone "$1" || true
        fi
        note "stopped $1"
    fi
    rm -f "$RUN/$1.pid"
}

gone() { ! running "$1"; }

# Waits until a check passes while a component runs: `await NAME SECONDS CHECK…`. Fails with its log otherwise.
await() {
    local name="$1" seconds="$2"
    shift 2
    # shellcheck disable=SC2317 # called by wait_until
    settled() { "$@" || ! running "$name"; }
    wait_until "$seconds" settled "$@" || die "$name did not come up within $seconds s" "$LOGS/$name.log"
    running "$name" || die "$name ended right after its start" "$LOGS/$name.log"
}

# --- ports ----------------------------------------------------------------------------------------------------------------------------

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints the wanted port, or the next one above it (in steps of ten) that is free.
free_port() {
    local port="$1"
    while port_taken "$port"; do port=$((port + 10)); done
    echo "$port"
}

# Reads the ports of this deployment, or chooses and remembers them.
choose_ports() {
    if [ -n "${PUBLIC_PORT:-}" ]; then return 0; fi
    PUBLIC_PORT="$(free_port 8443)" AGENT_PORT="$(free_port 8444)" ADMIN_PORT="$(free_port 8445)" SSH_PORT="$(free_port 2222)"
    printf '%s\n' "PUBLIC_PORT=$PUBLIC_PORT" "AGENT_PORT=$AGENT_PORT" "ADMIN_PORT=$ADMIN_PORT" "SSH_PORT=$SSH_PORT" >>"$SETTINGS"
}

# --- components -----------------------------------------------------------------------------------------------------------------------

# Whether the control plane says that it serves.
control_plane_ready() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$ADMIN_PORT" || exit 1
        printf 'GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
        head -n 1 <&3 | grep -q ' 200 '
    ) 2>/dev/null
}

start_control_plane() {
    local port
    for port in "$PUBLIC_PORT" "$AGENT_PORT" "$ADMIN_PORT" "$SSH_PORT"; do
        ! port_taken "$port" ||
            die "port $port, which this deployment uses, is taken by another program. End that program and run the script again."
    done
    say "Starting the control plane on 127.0.0.1:$PUBLIC_PORT (log: $LOGS/control-plane.log)"
    spawn control-plane user "$BIN/freehold-control-plane" serve --data-dir "$CONTROL_DATA" \
        --public-listen "127.0.0.1:$PUBLIC_PORT" --agent-listen "127.0.0.1:$AGENT_PORT" \
        --admin-listen "127.0.0.1:$ADMIN_PORT" --ssh-listen "127.0.0.1:$SSH_PORT" \
        --public-host 127.0.0.1 --public-host localhost \
        --agent-address "127.0.0.1:$AGENT_PORT" --ssh-address "127.0.0.1:$SSH_PORT" --default-image freehold/base:latest
    await control-plane 90 control_plane_ready
}

# Writes what a shell needs to use the deployment; nothing else is in it.
write_env() {
    local file="$STATE/env" quote="'\\''"
    [ -s "$CONTROL_DATA/operator-token" ] || die "the control plane left no operator token" "$LOGS/control-plane.log"
    (
        umask 077
        local token
        token="$(cat "$CONTROL_DATA/operator-token")"
        printf "export FREEHOLD_SERVER='https://127.0.0.1:%s'\nexport FREEHOLD_TOKEN='%s'\nexport FREEHOLD_CA='%s'\nexport PATH='%s':\"\$PATH\"\n" \
            "$PUBLIC_PORT" "$token" "${CONTROL_DATA//\'/$quote}/ca.pem" "${BIN//\'/$quote}" >"$file.new"
    )
    mv "$file.new" "$file"
}

# Enrols this machine, once.
enrol_agent() {
    local token
    [ -e "$AGENT_DATA/.enrolled" ] && return 0
    say "Enrolling this machine"
    token="$(freehold host enroll-token --output json | jq -r .secret)" || die "no enrolment token could be made"
    as_root mkdir -p "$AGENT_DATA" "$SCRATCH"
    as_root "$BIN/freehold-agent" enroll --server "$FREEHOLD_SERVER" --token "$token" --data-dir "$AGENT_DATA" \
        "${MACHINE[@]}" >>"$LOGS/agent.log" 2>&1 || die "this machine could not be enrolled" "$LOGS/agent.log"
    as_root touch "$AGENT_DATA/.enrolled"
}

# Starts the agent; $GPUS says on which GPUs.
start_agent() {
    local gpus=()
    [ "$GPUS" = real ] || gpus=(--nvml-lib "$LIB/libnvidia-ml.so.1" --kmsg "$KMSG")
    say "Starting the agent (log: $LOGS/agent.log)"
    AGENT_SINCE="$(date -u +%FT%T.%6NZ)"
    as_root mkdir -p "$AGENT_DATA" "$SCRATCH"
    spawn agent root env FREEHOLD_NVML_SCENARIO="$SCENARIO" "$BIN/freehold-agent" run --data-dir "$AGENT_DATA" \
        --scratch-dir "$SCRATCH" "${gpus[@]}"
}

# Prints this deployment's host as JSON.
host_json() { freehold host list --output json | jq -e '.hosts[0]'; }

# Whether the agent was heard since it was started, and its host has left the states it passes through after an enrolment.
host_settled() {
    host_json 2>/dev/null | jq -e --arg since "$AGENT_SINCE" \
        '(.last_seen_time // "") > $since and (.state | IN("available", "leased", "quarantined", "cordoned"))' >/dev/null
}

await_host() {
    await agent 120 host_settled
    local host state
    host="$(host_json)"
    state="$(jq -r .state <<<"$host")"
    if [ "$state" = quarantined ]; then
        die "this machine is quarantined: $(jq -r .state_reason <<<"$host"). See .freehold/log/agent.log; 'freehold host release' tries again."
    fi
    note "host $(jq -r '"\(.name): \(.gpu_count) × \(.gpu_model)"' <<<"$host"), $state"
}

# --- removal --------------------------------------------------------------------------------------------------------------------------

# Stops the PostgreSQL of a control plane that was killed; one that stopped cleanly took it along.
stop_database() {
    local data="$CONTROL_DATA/postgresql/data" pid
    pid="$(as_root head -n 1 "$data/postmaster.pid" 2>/dev/null)" || return 0
    # By device and inode: below a closed home directory the server runs in a mount namespace of its own, with other paths.
    database_runs() { as_root test "/proc/$pid/cwd" -ef "$data"; }
    database_runs || return 0
    as_root kill -INT "$pid"
    wait_until 30 eval '! database_runs' || die "PostgreSQL (process $pid) does not stop" "$CONTROL_DATA/postgresql/log"
    note "stopped the PostgreSQL of a control plane that was killed"
}

# Removes every container and network of this deployment's host, its firewall rules, its scratch disks, and $STATE.
purge() {
    local host names point
    host="$(as_root jq -r .host_id "$AGENT_DATA/identity.json" 2>/dev/null || true)"
    if [ -n "$host" ]; then
        say "Removing what runs on $host"
        mapfile -t names < <(engine ps --all --quiet --filter "label=freehold.host=$host")
        [ "${#names[@]}" -eq 0 ] || engine rm --force --volumes "${names[@]}" >/dev/null
        mapfile -t names < <(engine network ls --quiet --filter "label=freehold.host=$host")
        [ "${#names[@]}" -eq 0 ] || engine network rm "${names[@]}" >/dev/null
        purge_firewall "${host: -5}"
    fi
    while read -r point; do
        as_root umount "$point"
    done < <(findmnt --json --list --output TARGET | jq -r --arg dir "$STATE/" '.filesystems | reverse[].target | select(startswith($dir))')
    as_root rm -rf --one-file-system "$STATE"
    say "Removed $STATE"
}

# Takes away the rules that the agent laid for the interfaces fhHHHHH…, where HHHHH is the host id's end.
purge_firewall() {
    local tool rule words
    for tool in iptables ip6tables; do
        command -v "$tool" >/dev/null || continue
        while read -r rule; do
            read -ra words <<<"$rule"
            as_root "$tool" --wait 10 "${words[@]}" 2>/dev/null || true
        done < <(as_root "$tool" --wait 10 -S 2>/dev/null | grep -E -- "(-i|-o) fh$1\\+" | sed 's/^-A /-D /')
        while read -r rule; do
            as_root "$tool" --wait 10 -F "$rule" || true
            as_root "$tool" --wait 10 -X "$rule" || true
        done < <(as_root "$tool" --wait 10 -S 2>/dev/null | sed -n "s/^-N \\(FREEHOLD-$1-[A-Z]*\\)$/\\1/p")
    done
}

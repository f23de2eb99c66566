#!/bin/sh
# The first process of an instance. It prepares the login, keeps sshd running, and takes in the processes whose parents have ended.
# An sshd that the tenant ends comes back; nothing else is touched by it.
sshd=/usr/sbin/sshd
config=/etc/freehold/ssh/sshd_config

# Every image can be logged in to as lease, who may become root.
if ! id lease >/dev/null 2>&1; then
    shell=/bin/sh
    [ -x /bin/bash ] && shell=/bin/bash
    if command -v useradd >/dev/null 2>&1; then
        useradd --home-dir /home/lease --no-create-home --user-group --shell "$shell" lease
        usermod --password '*' lease
    else
        adduser -D -H -h /home/lease -s "$shell" lease
    fi
    if [ -d /etc/sudoers.d ]; then
        echo 'lease ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/lease
        chmod 0440 /etc/sudoers.d/lease
    fi
fi
if [ ! -d /home/lease ]; then
    mkdir -p /home/lease
    [ -d /etc/skel ] && cp -a /etc/skel/. /home/lease/
    chown -R lease: /home/lease
    chmod 0750 /home/lease
fi
chown lease: /lease

# All logins come from one address, so an sshd that punishes addresses for failed logins would lock everybody out.
mkdir -p /run/sshd
lenient='-o PerSourcePenalties=no'
# shellcheck disable=SC2086 # two words
"$sshd" -t -f "$config" $lenient 2>/dev/null || lenient=

trap 'kill "$child" 2>/dev/null; exit 0' TERM INT
while :; do
    # shellcheck disable=SC2086 # two words or none
    "$sshd" -D -e -f "$config" $lenient &
    child=$!
    wait "$child"
    sleep 1
done

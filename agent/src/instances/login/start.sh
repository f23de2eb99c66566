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
    else
        adduser -D -H -h /home/lease -s "$shell" lease
    fi
    # '*' admits no password; '!' would make sshd refuse the account as locked.
    sed -i 's/^lease:![^:]*:/lease:*:/' /etc/shadow
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
mkdir -p /run/sshd

# What the image sets for CUDA and Python reaches logins too. Values with blanks or quotes would need quoting, and are left out.
given="$(env | grep -E '^(PATH|(LD_)?LIBRARY_PATH|(CUDA|NCCL|NVIDIA|NV|CONDA|PYTHON|UV|HF)[A-Z0-9_]*)=[^[:space:]"\\]+$' | tr '\n' ' ')"
set -- -o "SetEnv ${given:-FREEHOLD=1}"

# All logins come from one address, so an sshd that punishes addresses for failed logins would lock everybody out. One that is too old to
# know the option ends at once with 1.
lenient=PerSourcePenalties=no
trap 'kill "$child" 2>/dev/null; exit 0' TERM INT
while :; do
    "$sshd" -D -e -f "$config" "$@" ${lenient:+-o "$lenient"} &
    child=$!
    wait "$child"
    if [ $? -eq 1 ] && [ -n "$lenient" ]; then
        lenient=
    else
        sleep 1
    fi
done

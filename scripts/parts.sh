# Parts of the tests that run at the same time, each in a session of its own. Sourced by what starts them.

parts=

# Starts a part, whose process ID is then $part. Takes a program and its arguments.
# Programs that a shell starts in the background are deaf to Ctrl-C, which tests send to builds.
start_part() {
    setsid env --default-signal=INT,QUIT "$@" &
    part=$!
    parts="$parts $part"
}

# Waits for a part; returns its exit status.
finish_part() {
    ended=0
    wait "$1" || ended=$?
    parts=$(printf '%s\n' $parts | grep -vx "$1" || :)
    return "$ended"
}

# Ends the parts that still run as Ctrl-C would, so that they end what they have started, then what has been left of them.
stop_parts() {
    trap '' INT TERM
    for part in $parts; do kill -TERM "$part" 2>/dev/null || :; done
    for part in $parts; do
        finish_part "$part" || :
        kill -KILL -- "-$part" 2>/dev/null || :
    done
}

# A file system of the tests' own at /tmp. Sourced by scripts/test.

# Starts scripts/test again, with its arguments, in a mount namespace in which /tmp is empty; returns where that cannot be.
# Tests make and remove files by the hundred thousand. An ext4 without a journal, as virtual machines have it, passes over
# what was removed within the last minutes whenever it makes a file, and so becomes ten times as slow. What lasts as long
# as the tests need not be on the disk when a database says so.
begin_with_own_tmp() {
    [ "$(id -u)" = 0 ] || return 0
    case "$PWD/" in /tmp/*) return 0 ;; esac
    # What a variable leads to, such as certificates or a folder for temporary files, has to stay in sight.
    ! env | grep -q '[=:]/tmp/.' || return 0
    if [ -z "${STAGEWRIGHT_OWN_TMP:-}" ]; then
        ! unshare --mount true 2>/dev/null || STAGEWRIGHT_OWN_TMP=yes exec unshare --mount scripts/test "$@"
        return 0
    fi
    unset STAGEWRIGHT_OWN_TMP
    image=$(mktemp /var/tmp/stagewright-tests-XXXXXX)
    # What nothing is written to takes no space.
    truncate -s "$(df -Pk /var/tmp | awk 'NR == 2 { print int($4 * 0.9) }')K" "$image"
    if mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 "$image" &&
        mount -o loop,noatime,noinit_itable,nobarrier,data=writeback "$image" /tmp; then
        rmdir /tmp/lost+found
        chmod 1777 /tmp
    fi
    # It lasts as long as it is mounted.
    rm "$image"
}

# An ordinary user to run the tests: an account with subordinate ids, and a checkout that it can reach. Sourced by
# scripts/test, as root, after scripts/setup.sh and scripts/parts.sh.

# One for each run, since several may go on at once.
test_user=stagewright-$$

make_test_user() {
    open_devices
    touch /etc/subuid /etc/subgid
    useradd --create-home --shell /bin/sh "$test_user"
    grep -q "^$test_user:" /etc/subuid || usermod --add-subuids 524288-589823 "$test_user"
    grep -q "^$test_user:" /etc/subgid || usermod --add-subgids 524288-589823 "$test_user"
    home=$(getent passwd "$test_user" | cut -d: -f6)
    checkout=$home/checkout
    touch "$home/started"
    # What the commands of the user's begin with. Root's virtual environment is none for the user.
    as_test_user="setpriv --reuid=$test_user --regid=$test_user --init-groups env -u XDG_CACHE_HOME -u XDG_CONFIG_HOME
        -u XDG_DATA_HOME -u STAGEWRIGHT_STANDINS HOME=$home USER=$test_user LOGNAME=$test_user XDG_RUNTIME_DIR=$home/run
        PATH=$PATH"
    uid=$(id -u "$test_user")
    range=$(grep "^$test_user:" /etc/subuid | head -n 1)
    first=$(echo "$range" | cut -d: -f2)
    last=$((first + $(echo "$range" | cut -d: -f3) - 1))
}

# Lets all users open the devices that Debian's udev lets them open; a machine without udev may not.
open_devices() {
    closed=
    for device in /dev/net/tun /dev/fuse; do
        if [ -c "$device" ] && [ "$(stat -c %a "$device")" != 666 ]; then
            closed="$closed $(stat -c %a "$device")=$device"
            chmod 666 "$device"
        fi
    done
}

close_devices() {
    for device in $closed; do chmod "${device%%=*}" "${device#*=}"; done
}

# Copies the project, with its virtual environment, and how this machine fetches packages to the home folder.
furnish_test_user() {
    mkdir -p "$checkout" "$home/run"
    tar -c --exclude=./.venv --exclude=./.git --exclude='./.*_cache' . | tar -x -C "$checkout"
    for settings in .npmrc .config/pip/pip.conf; do
        [ ! -f "$HOME/$settings" ] || install -D -m 600 "$HOME/$settings" "$home/$settings"
    done
    # The interpreter of root's virtual environment may lie where others cannot reach it.
    if ! python=$(find_python $as_test_user); then
        install_packages python3-venv
        python=$(find_python $as_test_user) || fail "Python 3.11 or newer with its venv module is needed, for all users"
    fi
    if [ "$(abi_of "$python")" = "$(abi_of .venv/bin/python)" ]; then copy_venv
    else (cd "$checkout" && make_venv "[dev]")
    fi
    chown -R "$test_user:" "$home"
    chmod 700 "$home/run"
    # For the tests in which root compares what it builds with what the user does.
    export STAGEWRIGHT_TEST_USER="$test_user" STAGEWRIGHT_TEST_PYTHON="$checkout/.venv/bin/python"
}

# What packages with compiled code are made for. Takes an interpreter.
abi_of() {
    "$1" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'
}

# Makes the user's virtual environment, with the user's interpreter, of what pip has put into root's.
copy_venv() {
    "$python" -m venv --without-pip "$checkout/.venv"
    cp -R --preserve=timestamps .venv/lib/python*/site-packages "$(echo "$checkout"/.venv/lib/python*)"
    for file in "$checkout"/.venv/lib/python*/site-packages/__editable__.*.pth; do
        sed -i "s|^$PWD/|$checkout/|" "$file"
    done
    cp .venv/stagewright-stamp "$checkout/.venv"
}

# Builds the stand-ins for base images that root's tests use, and gives the user a copy of them.
make_standins() {
    standins=${STAGEWRIGHT_STANDINS:-${XDG_CACHE_HOME:-$HOME/.cache}/stagewright/standins}
    say "stand-ins for base images, in $standins"
    folder=$(mktemp -d)
    made=0
    address=$(scripts/registry start "$folder/registry" --storage "$standins") || made=1
    [ "$made" != 0 ] ||
        .venv/bin/python scripts/standins --registry "$address" --config "$folder/stagewright.toml" || made=1
    scripts/registry stop "$folder/registry" || made=1
    rm -rf "$folder"
    [ "$made" = 0 ] || fail "the stand-ins could not be built"
    mkdir -p "$home/.cache/stagewright"
    cp -R "$standins" "$home/.cache/stagewright/standins"
    chown -R "$test_user:" "$home/.cache"
}

# The user's processes, also those of the subordinate ids, but for those that have ended and that init has yet to note.
processes_of_test_user() {
    ps -e -o uid=,pid=,stat=,args= | awk -v uid="$uid" -v first="$first" -v last="$last" \
        '$3 !~ /^Z/ && ($1 == uid || ($1 >= first && $1 <= last))'
}

# The files of the subordinate ids. Takes what find does with them.
# An earlier user, whose tests were killed, may have had the same ids.
files_of_test_user() {
    find /tmp /var/tmp /dev/shm /run "$home" -xdev -uid +$((first - 1)) -uid -$((last + 1)) \
        -cnewer "$home/started" "$@" 2>/dev/null || :
}

# Says what the tests have left running or lying about, and fails if there is anything.
check_nothing_is_left() {
    left=$(processes_of_test_user && files_of_test_user -print)
    [ -z "$left" ] || say "left behind by the tests:
$left"
    [ -z "$left" ]
}

remove_test_user() {
    close_devices
    processes_of_test_user | awk '{ print $2 }' | xargs -r kill -KILL || :
    files_of_test_user -delete
    userdel --force --remove "$test_user" 2>/dev/null || say "the user $test_user could not be removed"
}

# Starts to pass the integration tests as the ordinary user. Takes pytest's arguments.
start_as_test_user() {
    start_part $as_test_user "$checkout/scripts/test-as-user" "$@" >"$home/report" 2>&1
    users=$part
}

# Waits until they are passed, and shows the report. What is left is looked for when root has no process of the user's either.
finish_as_test_user() {
    passed=0
    finish_part "$users" || passed=1
    say "pytest as $test_user"
    cat "$home/report"
    check_nothing_is_left || passed=1
    return "$passed"
}

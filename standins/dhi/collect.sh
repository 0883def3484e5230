#!/bin/sh
# collect.sh ROOT PATH...: makes a root folder of the paths, every shared library that their binaries load, and the
# folders and files that any process expects.
set -eu
root=$1
shift

mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/sbin" "$root/etc/ssl" "$root/root" "$root/dev" "$root/proc" "$root/sys"
mkdir -p -m 1777 "$root/tmp"
for folder in bin lib sbin lib64; do
    if [ -L "/$folder" ]; then
        mkdir -p "$root/usr/$folder"
        ln -s "usr/$folder" "$root/$folder"
    fi
done

cp -a --parents "$@" "$root"
cp -aL --parents /etc/nsswitch.conf /etc/os-release "$root"
if [ -d /etc/ssl/certs ]; then cp -aL --parents /etc/ssl/certs/ca-certificates.crt "$root"; fi

# ldd also names the loader itself, by its absolute path and without an arrow.
find "$@" -type f \( -perm -u+x -o -name '*.so*' \) -exec ldd {} + 2>/dev/null |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// && $2 ~ /^\(/ { print $1 }' |
    sort -u |
    while read -r library; do
        cp -L --parents "$(realpath "$(dirname "$library")")/$(basename "$library")" "$root"
    done

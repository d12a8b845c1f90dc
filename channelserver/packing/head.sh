#!/bin/sh
# A Django site in one file. The lines up to "exit" are a shell script, the rest is its archive; see --help.
name='@NAME@' hash='@HASH@' skip=@SKIP@ loader='@LOADER@' glibc='@GLIBC@' python='@PYTHON@'

fail() {
    printf '%s: %s\n' "$name" "$1" >&2
    exit 1
}

case $0 in
*/*) file=$0 ;;
*) file=$(command -v -- "$0") || file=$0 ;;
esac
file=$(readlink -f -- "$file") || fail "the path of this file cannot be found out; call it by its full path"
beside=${file%/*}
[ -n "$beside" ] || beside=/

if [ -n "$loader" ] && [ ! -e "$loader" ]; then
    fail "this machine has no glibc ($loader is missing; Alpine and other systems on musl have none); it needs a system with glibc $glibc or later"
fi

# Whether a folder was unpacked completely, and by this user.
usable() {
    [ -f "$1/.complete" ] && [ -O "$1" ] && [ ! -L "$1" ]
}

# The version of glibc here: the library is a program that says so.
glibc_here() {
    for library in "${loader%/*}"/libc.so.6 /lib/*-linux-gnu/libc.so.6 /usr/lib/*-linux-gnu/libc.so.6 /lib64/libc.so.6; do
        if [ -f "$library" ]; then
            text=$("$loader" "$library" 2>/dev/null) || text=$("$library" 2>/dev/null) || continue
            text=${text#*release version }
            printf '%s' "${text%%[!0-9.]*}"
            return
        fi
    done
}

unpack() {
    draft=$(mktemp -d "$1/.$name-$hash.$$.XXXXXX" 2>/dev/null) || return 1
    message=$({
        tail -c +"$skip" -- "$file" | { gzip -dc || echo "$damaged" >&2; } | {
            tar -xomf - -C "$draft"
            code=$?
            tail -c 1 >/dev/null # gzip compares its checksum at the very end
            exit $code
        }
    } 2>&1)
    code=$?
    case $message in *"$damaged"*) code=1 ;; esac
    if [ $code -ne 0 ] || [ ! -f "$draft/.complete" ]; then
        rm -rf -- "$draft"
        case $message in
        *"$damaged"*) fail "$damaged" ;; # then another place does not help
        *[Nn]o\ space*) problem="there is no space left in $1" ;;
        *) problem="it cannot be unpacked into $1: $message" ;;
        esac
        return 1
    fi
    message=$(LD_LIBRARY_PATH=$draft/python/lib/shared PYTHONHOME=$draft/python "$draft/python/bin/$python" -S -c '' 2>&1)
    if [ $? -ne 0 ]; then
        rm -rf -- "$draft"
        case $message in
        *GLIBC_*)
            here=$(glibc_here)
            fail "it needs glibc $glibc or later, this machine has ${here:-an older one}; pack it on an older system, or with --python"
            ;;
        *[Pp]ermission*) problem="programs must not run in $1 (noexec)" ;;
        *) problem="the interpreter does not run in $1: $message" ;;
        esac
        return 1
    fi
    # What is left of one whose removal was cut off, or that a cleaner of old files has spoilt, is in the way.
    if [ -O "$1/$name-$hash" ] && [ ! -f "$1/$name-$hash/.complete" ]; then
        mv -- "$1/$name-$hash" "$draft.old" 2>/dev/null && rm -rf -- "$draft.old"
    fi
    # Another start may have been quicker; then this copy would land inside its folder.
    if usable "$1/$name-$hash" || ! mv -- "$draft" "$1/$name-$hash" 2>/dev/null; then
        rm -rf -- "$draft"
    elif [ -d "$1/$name-$hash/${draft##*/}" ]; then
        rm -rf -- "$1/$name-$hash/${draft##*/}"
    fi
    usable "$1/$name-$hash"
}

folder='' problem='' damaged='the file is incomplete or damaged; copy it here once more'
unset PYTHONPATH PYTHONSTARTUP PYTHONUSERBASE PYTHONPLATLIBDIR
home=${HOME:-} cache=${CACHE_DIRECTORY:-} wanted=${PACKED_DIR:-}
if [ -z "$wanted" ] && [ -f "$beside/$name.env" ] && [ -r "$beside/$name.env" ]; then
    return=$(printf '\r')
    while read -r line || [ -n "$line" ]; do
        line=${line#export } line=${line%"$return"}
        case $line in
        PACKED_DIR=\"*\" | PACKED_DIR=\'*\') wanted=${line#PACKED_DIR=?} wanted=${wanted%?} ;;
        PACKED_DIR=*) wanted=${line#PACKED_DIR=} ;;
        esac
    done <"$beside/$name.env"
fi
case $wanted in
'' | /*) ;;
*) wanted=$PWD/$wanted ;;
esac
for place in "$wanted" "${cache%%:*}" "$beside/.cache" "${XDG_CACHE_HOME:-}" "${home:+$home/.cache}" /var/tmp /tmp; do
    [ "${place#/}" != "$place" ] || continue
    if usable "$place/$name-$hash"; then
        folder=$place/$name-$hash
        break
    fi
done
if [ -z "$folder" ]; then
    for place in "$wanted" "${cache%%:*}" "$beside/.cache" "${XDG_CACHE_HOME:-}" "${home:+$home/.cache}" /var/tmp /tmp; do
        [ "${place#/}" != "$place" ] || continue
        [ -d "$place" ] || (umask go-w && mkdir -p -- "$place") 2>/dev/null || continue
        [ -w "$place" ] || continue
        if unpack "$place"; then
            folder=$place/$name-$hash
            case $place in
            /var/tmp | /tmp) printf '%s: unpacked into %s, which others clean up; set PACKED_DIR to a folder of your own\n' "$name" "$place" >&2 ;;
            esac
            break
        fi
    done
fi
[ -n "$folder" ] || fail "${problem:-there is no folder to unpack into}; set PACKED_DIR to a folder on a disk from which programs may run"

export PACKED_SITE="$folder" PACKED_FILE="$file"
exec "$folder/python/bin/python" -sP -m channelserver.packing.launch "$@"
exit 1

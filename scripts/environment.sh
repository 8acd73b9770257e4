# Owns .venv at the repository's root: makes it, repairs it, and keeps what is installed in step with pyproject.toml.
# Sourced by the scripts beside it, never run. Needs uv, or a Python of 3.11 to 3.13 with its venv module.
#
#   environment [GROUP]   afterwards $bin holds distrain, and what pyproject.toml's dependency group GROUP names
#
# Silent when nothing is to be done. What it does say goes to stderr: stdout belongs to the script that asks.

repository=$(dirname "$(dirname "$(readlink -f "$0")")")
venv=$repository/.venv
bin=$venv/bin
# Held while .venv changes, and not empty while it is half-made: an interrupted install cannot pass for a whole one.
lock=$repository/.venv.lock
uv_failed= # becomes "yes": then pip installs

supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

say() {
    printf 'distrain: %s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

environment() {
    group=${1-}
    stamp=$venv/.installed${group:+-$group}
    if is_current; then return; fi
    (
        if command -v flock >/dev/null && ! flock --nonblock 9; then
            say "waiting for another script that installs into $venv"
            flock 9
        fi
        if is_current; then exit; fi
        cd "$repository"
        if [ -s "$lock" ] || ! is_usable; then
            echo unfinished >"$lock"
            make_venv || without_uv || fail "$venv cannot be made, the reason is above"
        fi
        echo unfinished >"$lock"
        say "installing${group:+ what \"$group\" needs} into $venv (TensorFlow is large: some minutes the first time)"
        install || { without_uv && install; } ||
            fail "the install failed, its own words are above; the same command starts it afresh"
        state >"$stamp"
        : >"$lock"
    ) 9>>"$lock"
}

# distrain alone, without a group, is there when any group is: hence the pattern.
is_current() {
    now=$(state)
    for each in "$stamp"*; do
        if [ "$now" = "$(cat "$each" 2>/dev/null)" ]; then return 0; fi
    done
    return 1
}

# One line that differs whenever what is installed may no longer be what pyproject.toml asks for.
state() {
    { echo "$repository" && "$bin/python" -V && cat "$repository/pyproject.toml"; } 2>/dev/null | cksum
}

is_usable() {
    "$bin/python" -c "$supported" 2>/dev/null && { has_uv || "$bin/python" -c 'import pip' 2>/dev/null; }
}

# Only a uv that knows dependency groups will do; an older one leaves the work to pip.
has_uv() {
    if [ "$uv_failed" ]; then return 1; fi
    case $(uv pip install --help 2>/dev/null) in
        *--group*) true ;;
        *) false ;;
    esac
}

make_venv() {
    rm -rf "$venv"
    if has_uv; then
        python=$(find_python "$supported") || python=3.13 # which uv fetches
        uv venv --quiet --no-project --python "$python" "$venv"
    elif python=$(find_python "import ensurepip, venv; $supported"); then
        "$python" -m venv "$venv" &&
            "$bin/python" -m pip install --quiet --disable-pip-version-check 'pip>=25.1' # the first that knows groups
    elif python=$(find_python "$supported"); then
        fail "$python cannot make virtual environments: install its venv module" \
            "(Debian and Ubuntu: apt install python3-venv) or uv (https://docs.astral.sh/uv/)"
    else
        fail "no Python of 3.11, 3.12 or 3.13 is on the PATH: install one, or uv (https://docs.astral.sh/uv/)"
    fi
}

# A uv that cannot install where pip perhaps can (another trust store, another index) is left out from here on, and
# .venv made anew. False where uv had no part in it, or no Python is there without it.
without_uv() {
    has_uv && find_python "import ensurepip, venv; $supported" >/dev/null || return
    say "uv failed, its own words are above: trying pip in its place"
    uv_failed=yes
    make_venv
}

# The first Python on which the check passes. It is run, not only looked up: a pyenv shim may be there and not work.
find_python() {
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c "$1" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

install() {
    if has_uv; then
        uv pip install --quiet --compile-bytecode --python "$bin/python" --editable . ${group:+--group "$group"} >&2
    else
        "$bin/python" -m pip install --quiet --disable-pip-version-check --editable . ${group:+--group "$group"} >&2
    fi
}

# Stands before the blocks of a document. A reader starts a hive in a terminal of its own; here it runs in the background,
# on a free port and with a data folder of its own, in which the commands after it find it.

program=$1
hives=()
end_hives() {
  for hive in "${hives[@]}"; do kill "$hive" 2>/dev/null || true; done
  wait
}
trap end_hives EXIT

serve() {
  # One that takes over has the folder of the hive before it.
  if [[ " $* " != *" --take-over "* ]]; then
    RBEE_HIVE_DATA_DIR=$(mktemp -d)
    export RBEE_HIVE_DATA_DIR
  fi
  local line pipe
  pipe=$(mktemp -u)
  mkfifo "$pipe"
  RBEE_HIVE_PORT=0 "$program" "$@" >"$pipe" 2>"$pipe.log" &
  if read -r line <"$pipe"; then
    hives+=("$!")
  else
    local status=0
    wait "$!" || status=$?
    cat "$pipe.log"
    return "$status"
  fi
}

rbee-hive() {
  case "${1-}" in
    -h | --help | -V | --version) "$program" "$@" ;;
    '' | serve | -*) serve "$@" ;;
    *) "$program" "$@" ;;
  esac
}

# The program is built already.
cargo() {
  if [ "${*:1:3}" != 'run --release --' ]; then
    echo "the tests build and install nothing: cargo $*" >&2
    return 1
  fi
  rbee-hive "${@:4}"
}

# Runs the scenarios of /lab/order one after the other and says on the second serial port how they went.
. /lab/lib.sh
exec 3>/dev/ttyS1
report() { echo "LAB $*" >&3; }

# The consoles of the guests go out as they come, for a failure that dom0 does not survive.
follow_consoles() {
  while :; do
    for log in /var/log/xen/console/guest-*.log; do
      name=${log##*/guest-}; name=${name%.log}
      [ -e "$log" ] && [ ! -e /run/followed-$name ] || continue
      : >/run/followed-$name
      tail -n +1 -F "$log" 2>/dev/null | awk -v n="$name" '{ print n "| " $0; fflush() }' >/dev/ttyS1 &
    done
    usleep 500000
  done
}
follow_consoles &

# What a scenario may not leave behind.
census() {
  echo "nodes $(count_nodes)"
  echo "ports $(count_ports 0)"
  echo "grants $(count_grants)"
}

report READY
old_processes=
strangers
old_processes=" $strangers "
census >/run/census
while read -r name seconds <&4; do
  report BEGIN $name
  echo "==== $name"
  rm -f /run/skip
  setsid timeout -s KILL $seconds sh -e -c '. /lab/lib.sh; set -x; . "/lab/scenarios/$1.sh"' sh $name
  status=$?
  if [ -e /run/skip ]; then
    report SKIP $name "$(cat /run/skip)"
  fi
  case $status in
  0) ;;
  137) report WHY "timed out after $seconds s"; diagnose ;;
  *) diagnose ;;
  esac
  clean_up
  census >/run/census.now
  if ! cmp -s /run/census /run/census.now; then
    report WHY "left behind: $(paste -d' ' /run/census /run/census.now | awk '$2 != $4 { printf "%s %s, before %s; ", $1, $4, $2 }')"
    cp /run/census.now /run/census
    diagnose
  fi
  [ -e /run/skip ] || report END $name $status
done 4</lab/order
report DONE

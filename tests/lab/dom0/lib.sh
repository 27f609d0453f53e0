# Functions for scenarios in dom0. A scenario is a shell with `set -e`: the first command that fails ends it.
console=/var/log/xen/console
. /lab/patience

# seconds: since dom0's start
seconds() { cut -d. -f1 /proc/uptime; }

# until_true SECONDS COMMAND...: repeats it until it succeeds; `--patience` makes the seconds more
until_true() {
  local -; set +x
  local end=$(( $(seconds) + $1 * patience )); shift
  until "$@" >/dev/null 2>&1; do
    [ $(seconds) -lt $end ] || { echo "not within the time: $*"; return 1; }
    usleep 100000
  done
}

# figure WHAT: VALUE, measured: `--status` writes it into docs/STATUS.md
figure() { echo "LAB FIGURE $*" >/dev/ttyS1; }

# skip WHY: this scenario cannot run here
skip() { echo "$*" >/run/skip; exit 0; }

# fail WHY: ends it
fail() { local -; set +x; echo "FAILED: $*"; exit 1; }

# fails COMMAND...: `set -e` does not look at `! COMMAND`
fails() { if "$@"; then fail "it should not succeed: $*"; fi; }

# disk_image NAME MIB: an empty image on a file system that can do direct I/O; prints its path
disk_image() {
  local -; set +x
  grep -q ' /images ' /proc/mounts || make_images >&2 || return 1
  rm -f /images/$1 && truncate -s ${2}M /images/$1 && echo /images/$1
}
# By its name: busybox has a mke2fs of its own.
make_images() {
  modprobe brd rd_nr=2 rd_size=786432 && modprobe ext4 &&
    mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=1 /dev/ram0 && mkdir -p /images && mount -t ext4 /dev/ram0 /images
}

# linux_blkback: the kernel's own backend serves `disk=["phy:..."]`
linux_blkback() { server=linux; modprobe loop && modprobe xen-blkback; }

# ringfence_backend [ARGUMENT...]: ours serves disks with script=block-ringfence; its output is /run/ringfence.log
ringfence_backend() {
  ! grep -q '^xen_blkback ' /proc/modules || rmmod xen-blkback
  ringfence driver-domain --platform xen "$@" >/run/ringfence.log 2>&1 &
  backend=$!
  until_true 30 grep -q '"ready"' /run/ringfence.log || { cat /run/ringfence.log; return 1; }
}

# served_by: the process that serves, which says so in a line of its own each time it starts
served_by() { sed -n 's/.*"ready".*"pid":\([0-9]*\).*/\1/p' /run/ringfence.log | tail -1; }
another_than() { [ "$(served_by)" != $1 ]; }

# kill_serving: kills it, and waits for the next one
kill_serving() {
  local -; set +x
  local process=$(served_by)
  kill -KILL $process
  until_true 30 another_than $process
}

# disk IMAGE VDEV [rw|ro]: a disk in xl's words, of ours, or of Linux's after linux_blkback
server=ringfence
disk() {
  local script=; [ $server = linux ] || script=script=block-ringfence,
  echo "format=raw,vdev=$2,access=${3:-rw},backendtype=phy,${script}target=$1"
}

# guest_config NAME [DISK...]: xl's configuration. From the environment: type, memory, vcpus, extra (kernel
# arguments), config (more lines)
guest_config() {
  local -; set +x
  local name=$1 list= d; shift
  for d; do list="$list'$d',"; done
  cat <<EOF
name="$name"
type="${type:-pv}"
memory=${memory:-256}
vcpus=${vcpus:-1}
kernel="/lab/vmlinux"
ramdisk="/lab/guest.cpio"
extra="console=hvc0 quiet loglevel=4 panic=1 ${extra:-}"
on_crash="destroy"
on_reboot="destroy"
disk=[$list]
${config:-}
EOF
}

# guest NAME [DISK...]: creates it and waits until it takes commands
guest() {
  local -; set +x
  guest_config "$@" >/tmp/$1.cfg
  xl create -q /tmp/$1.cfg || return 1
  guest_ready $1
}

# guest_ready NAME [SECONDS]
guest_ready() {
  local -; set +x
  until_true ${2:-90} ready_or_gone $1 && is_ready $1 || { guest_log $1 | tail -20; fail "$1 did not come up"; }
}
is_ready() { grep -q '^GUEST-READY' $console/guest-$1.log; }
ready_or_gone() { is_ready $1 || gone $1; }

# wait_log NAME PATTERN SECONDS: for a line of the guest's console
wait_log() { local -; set +x; until_true $3 grep -q "$2" $console/guest-$1.log || { guest_log $1 | tail -20; return 1; }; }

# guest_log NAME
guest_log() { local -; set +x; sed 's/\r//g' $console/guest-$1.log; }

# start_in GUEST COMMAND: gives it to the guest's shell; prints the number that wait_in takes.
# Commands of one guest run one after the other.
start_in() {
  local -; set +x
  case $2 in *$'\n'*) echo "a command of more than one line: $2" >&2; return 1 ;; esac
  local n=$(( $(cat /run/commands 2>/dev/null || echo 0) + 1 ))
  echo $n >/run/commands
  echo "$n $2" >"$(xenstore-read /local/domain/$(xl domid $1)/console/tty)"
  echo $n
}

# wait_in GUEST NUMBER SECONDS: shows what the command wrote and succeeds if it did
wait_in() {
  local -; set +x
  until_true $3 grep -q "^GUEST-STATUS $2 " $console/guest-$1.log || { guest_log $1 | tail -20; return 1; }
  guest_log $1 | sed -n "/^GUEST-COMMAND $2\$/,/^GUEST-STATUS $2 /p" | sed '1d;$d'
  [ "$(guest_log $1 | sed -n "s/^GUEST-STATUS $2 //p")" = 0 ]
}

# in_guest GUEST SECONDS COMMAND: runs it there, with the functions of guest/lib.sh
in_guest() { local -; set +x; local n; n=$(start_in $1 "$3") && wait_in $1 $n $2; }

# guest_off GUEST: shuts it down in order
guest_off() {
  local -; set +x
  local id; id=$(xl domid $1)
  start_in $1 'mount -o remount,ro /; poweroff -f' >/dev/null
  until_true 30 gone $id
}
gone() { ! xl list $1; }

# state BACKEND-OR-FRONTEND-DIRECTORY VALUE [SECONDS]: waits for a xenbus state
state() { until_true ${3:-20} has_state $1 $2; }
has_state() { [ "$(xenstore-read $1/state)" = $2 ]; }

# no_node PATH: whether the store has no such node
no_node() { ! xenstore-exists $1; }

# same_data IMAGE MIB GUEST DEVICE: the first MIB are the same here and there
same_data() {
  local here there
  here=$(dd if=$1 bs=1M count=$2 2>/dev/null | sha256sum)
  there=$(in_guest $3 60 "checksum $4 $2")
  [ "$here" = "$there" ] || fail "$1 is $here, $3 reads $there"
}

# count_nodes: nodes of domains and their devices in the store
count_nodes() { local -; set +x; xenstore-ls -f / | grep -c -E '^/(local/domain|libxl|vm)/'; }

# count_ports DOMID: its event channels
count_ports() { local -; set +x; lsevtchn $1 | wc -l; }

# count_grants [DOMID]: entries of grant tables that somebody has mapped or is using: of that domain, else of all
count_grants() {
  local -; set +x
  xl debug-keys g
  until_true 10 grants_printed
  xl dmesg -c | awk -v want="${1:-}" '
    /gnttab_usage_print_all \[/ { n = 0 }
    /grant-table for remote d/ { sub(/.*remote d/, ""); d = $0 + 0 }
    /\[ *(0x)?[0-9a-f]+\] +d?[0-9]+ 0x/ { if (want == "" || d == want) n++ }
    END { print n + 0 }'
}
grants_printed() { xl dmesg | grep -q 'gnttab_usage_print_all ] done'; }

# mark: remembers how many nodes, event channels and grants there are; back_to_mark waits until it is so again
mark() { local -; set +x; marked_nodes=$(count_nodes) marked_ports=$(count_ports 0) marked_grants=$(count_grants); }
back_to_mark() {
  local -; set +x
  until_true 20 at_mark && return
  fail "nodes $(count_nodes), before $marked_nodes; ports $(count_ports 0), before $marked_ports; grants $(count_grants), before $marked_grants"
}
at_mark() {
  [ $(count_nodes) = $marked_nodes ] && [ $(count_ports 0) = $marked_ports ] && [ $(count_grants) = $marked_grants ]
}

# strangers: sets `strangers` to the processes of user space that were not there before the first scenario
strangers() {
  local p comm; strangers=
  for p in /proc/[0-9]*; do
    p=${p#/proc/}
    [ -e /proc/$p/exe ] || continue
    case $old_processes in *" $p "*) continue ;; esac
    { read -r comm </proc/$p/comm; } 2>/dev/null || continue
    case $comm in tail | awk | usleep) continue ;; esac   # what follows the consoles
    strangers="$strangers $p"
  done
}
no_strangers() { strangers; [ -z "$strangers" ]; }

# clean_up: no guest, no process of a scenario, no disk
clean_up() {
  local -; set +x
  local d
  for d in $(xl list | awk 'NR > 1 && $2 > 0 { print $2 }'); do xl destroy $d; done
  until_true 20 only_dom0 || xl list
  no_strangers || kill -TERM $strangers 2>/dev/null
  until_true 5 no_strangers || kill -KILL $strangers 2>/dev/null
  until_true 20 only_dom0 || report WHY "$(xl list | awk 'NR > 2 { printf "domain %s is left in state %s; ", $2, $5 }')"
  ! grep -q '^xen_blkback ' /proc/modules || rmmod xen-blkback || :
  ! grep -q ' /images ' /proc/mounts || { losetup -D 2>/dev/null; rm -rf /images/*; }
  rm -f $console/guest-*.log /tmp/*.cfg /run/ringfence.log
}
only_dom0() { [ $(xl list | wc -l) = 2 ]; }

# diagnose: what one wants to know after a failure
diagnose() {
  local -; set +x
  echo "---- xl list"; xl list
  echo "---- store"; xenstore-ls -f /local/domain 2>/dev/null | grep -E '/(state|online|error|hotplug-[a-z]*|physical-device-path) = '
  echo "---- dmesg"; dmesg | tail -15
  [ ! -e /run/ringfence.log ] || { echo "---- ringfence"; tail -20 /run/ringfence.log; }
  processes
}

# processes: of ours, what each thread is doing, and how much processor time it has taken
processes() {
  local -; set +x
  local p t
  for p in $(pidof ringfence); do
    echo "---- process $p: $(tr '\0' ' ' </proc/$p/cmdline)"
    for t in /proc/$p/task/*; do
      echo "thread ${t##*/} $(cat $t/comm): $(cut -d' ' -f3,14,15 $t/stat) $(cat $t/syscall)"
      cat $t/stack
    done
  done 2>/dev/null
}

# image_disks: makes `files`, an ext4 with files that tell what they hold, and `scratch`, an empty one
image_disks() {
  local -; set +x
  scratch=$(disk_image scratch.img 16) || return 1
  files=$(disk_image files.img 16) || return 1
  local n sum=0
  mkdir -p /tmp/files
  for n in 1 70 5000 300000; do
    head -c $n /dev/urandom >/tmp/files/$n
    sum=$(( sum + $(od -v -An -tu1 /tmp/files/$n | awk '{ for (i = 1; i <= NF; i++) s += $i } END { print s }') ))
  done
  echo $sum >/tmp/files/sum
  mkfs.ext4 -q -d /tmp/files $files
}

# image_guest NAME DISK...: starts our own guest kernel. From the environment: type, memory, extra (its arguments)
image_guest() {
  local -; set +x
  local name=$1 list= d; shift
  for d; do list="$list'$d',"; done
  cat >/tmp/$name.cfg <<C
name="$name"
type="${type:-pv}"
memory=${memory:-32}
kernel="/lab/guest-image"
extra="${extra:-}"
on_crash="destroy"
disk=[$list]
C
  xl create -q /tmp/$name.cfg
}

# image_passes NAME VDEV...: waits until our guest kernel is off; console, store and each disk must have passed
image_passes() {
  local -; set +x
  local name=$1 d; shift
  until_true 60 gone $name || { guest_log $name; xl dmesg | tail -40; fail "$name does not end"; }
  guest_log $name
  for d in console xenstore "$@" all; do
    guest_log $name | grep -q -E "PASS (disk )?$d\b" || { xl dmesg | tail -40; fail "$name: no PASS of $d"; }
  done
}

# save_here NAME: to a file, and restored from it once nothing is left of its domain
save_here() {
  local -; set +x
  xl save $1 /images/$1.save || return 1
  until_true 20 only_dom0
  xl restore /images/$1.save || return 1
  rm /images/$1.save
}

# migrate_here NAME: to this machine, with what xl would have had ssh do on another one. From then on guest_log shows what the
# guest says after that: its console has the name that it has while it arrives.
migrate_here() {
  local -; set +x
  printf '#!/bin/sh\nshift\nexec "$@"\n' >/tmp/here
  chmod +x /tmp/here
  xl migrate -s /tmp/here $1 localhost || return 1
  ln -sf guest-$1--incoming.log $console/guest-$1.log
}

# Functions of the cost_* scenarios, which `cargo xtask bench lab` reads: lines `COST BACKEND {...}` on the console.

# cost_disk: the ram disk that every backend serves, with all of its pages there
cost_disk() {
  [ -b /dev/ram1 ] || modprobe brd rd_nr=2 rd_size=786432
  dd if=/dev/zero of=/dev/ram1 bs=1M count=64 oflag=direct 2>/dev/null
}

# cost_guest DISK [KERNEL-ARGUMENT...]: the guest that does the loads
cost_guest() { local disk=$1; shift; extra="labscript=cost $*" guest g1 "$disk"; }

# cost BACKEND PROCESS...: all loads, each twice with different counts, after one that has every page used that they use
cost() {
  local -; set +x
  local backend=$1 processes= n=0 p load line; shift
  for p; do processes="$processes --process $p"; done
  echo "COST $backend {\"frontend\":\"$(guest_log g1 | sed -n 's/.*blkfront: xvdb: //p')\"}"
  for load in "write64k 32 400" "read4k 1 500" "read4k 1 2500" "write64k 1 200" "write64k 1 1000" \
    "read4k 32 1000" "read4k 32 5000" "write64k 32 200" "write64k 32 1000"; do
    n=$((n+1))
    line=$(lab-cost --guest $(xl domid g1) --number $n --load "$load" $processes) || return 1
    [ $n = 1 ] || echo "COST $backend $line"
  done
}

# cost_guest_off: shuts it down, which a guest that listens to the store only has to be told there
cost_guest_off() {
  local id; id=$(xl domid g1)
  xenstore-write /local/domain/$id/data/cost/go off
  until_true 30 gone $id
}

# kernel_threads PATTERN: of the kernel's backend
kernel_threads() {
  local p
  for p in /proc/[0-9]*; do
    case $(cat $p/comm 2>/dev/null) in $1) echo ${p#/proc/} ;; esac
  done
}

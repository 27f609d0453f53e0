# Functions for commands in a guest.

# wait_disk DEVICE [SECONDS]: until the disk is there
wait_disk() {
  local n=0
  while [ ! -b /dev/$1 ]; do
    n=$((n+1)); [ $n -le $((${2:-30}*10)) ] || { echo "no disk $1"; return 1; }
    usleep 100000
  done
}

# no_disk DEVICE [SECONDS]: until it is gone
no_disk() {
  local n=0
  while [ -b /dev/$1 ]; do
    n=$((n+1)); [ $n -le $((${2:-30}*10)) ] || { echo "the disk $1 is still there"; return 1; }
    usleep 100000
  done
}

# serve_disks: starts a driver domain's service and waits until it serves; its output is /tmp/log, its number /tmp/service
serve_disks() {
  ringfence driver-domain --platform xen >/tmp/log 2>&1 &
  echo $! >/tmp/service
  local n=0
  until grep '"ready"' /tmp/log; do
    n=$((n+1)); [ $n -lt 300 ] || { cat /tmp/log; return 1; }
    usleep 100000
  done
}

# kill_serving: kills the process that serves, and waits for the next one
served_by() { sed -n 's/.*"ready".*"pid":\([0-9]*\).*/\1/p' /tmp/log | tail -1; }
kill_serving() {
  local process=$(served_by) n=0
  kill -KILL $process
  while [ "$(served_by)" = $process ]; do
    n=$((n+1)); [ $n -lt 600 ] || { tail /tmp/log; return 1; }
    usleep 50000
  done
}

# fs_make DEVICE, fs_mount DEVICE, fs_check DEVICE: an ext4 on /mnt
fs_make() { wait_disk $1 && mkfs.ext4 -q -F /dev/$1 && echo "made ext4"; }
fs_mount() { modprobe ext4 && mount -t ext4 /dev/$1 /mnt; }
fs_check() { e2fsck -f -n /dev/$1; }

# fio_verify FILE MIB [ARGUMENT...]: writes at random in several sizes, other data each time, and reads all of it back
fio_verify() {
  local file=$1 size=$2 seed; shift 2
  seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
  fio --name=verify --filename=$file --size=${size}M --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=16 \
    --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --randseed=$seed --thread --output-format=terse "$@" >/tmp/fio-${file##*/}.out 2>&1 ||
    { echo "seed $seed"; cat /tmp/fio-${file##*/}.out; return 1; }
  echo "fio verified $size MiB, seed $seed"
}

# verify_on DEVICE MIB [ARGUMENT...]: fio_verify again and again, in the background
verify_on() {
  local device=$1
  (
    while [ ! -e /tmp/enough ]; do fio_verify /dev/"$@" || { echo badly >/tmp/went-$device; exit; }; done
    echo well >/tmp/went-$device
  ) >/tmp/rounds-$device 2>&1 &
}

# verified DEVICE...: ends verify_on everywhere; succeeds if all went well on these
verified() {
  local device
  touch /tmp/enough
  for device; do
    until [ -e /tmp/went-$device ]; do usleep 100000; done
    cat /tmp/rounds-$device
    [ $(cat /tmp/went-$device) = well ] || return 1
  done
}

# no_complaints: of the kernel, about a disk
no_complaints() { ! dmesg | grep -i "I/O error\|wrong operation\|for further use"; }

# checksum DEVICE MIB: of its start, past the page cache
checksum() { dd if=/dev/$1 bs=1M count=$2 iflag=direct 2>/dev/null | sha256sum; }

# random_data DEVICE MIB: fills its start, past the page cache, and flushes
random_data() { dd if=/dev/urandom bs=1M count=$2 2>/dev/null | dd of=/dev/$1 bs=64k iflag=fullblock oflag=direct conv=fsync 2>/dev/null; }

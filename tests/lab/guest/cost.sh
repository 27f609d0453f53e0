# Loads for measuring: dom0's lab-cost says which through the store and is told when it is done.
# `NUMBER (read4k|write64k) DEPTH COUNT`, or `off`. The figures come from two counts, so that what a run costs once is not in them.
load() {
  case $1 in
  read4k) set -- randread 4k $2 $3 ;;
  write64k) set -- randwrite 64k $2 $3 ;;
  *) return 1 ;;
  esac
  fio --name=load --filename=/dev/xvdb --rw=$1 --bs=$2 --iodepth=$3 --number_ios=$4 --size=64m --io_size=64g --direct=1 \
    --ioengine=libaio --norandommap --randseed=7 --gtod_reduce=1 --thread >/tmp/fio.out 2>&1
}
wait_disk xvdb || return 1
dmesg | grep 'blkfront: xvdb'
node=/local/domain/$(xenstore-read domid)/data/cost
xenstore-write $node/go none
echo GUEST-READY
last=none
xenstore-watch $node/go | while read -r _; do
  go=$(xenstore-read $node/go)
  [ "$go" != "$last" ] || continue
  last=$go
  [ "$go" != off ] || poweroff -f
  set -- $go
  load $2 $3 $4
  status=$?
  [ $status = 0 ] || cat /tmp/fio.out
  xenstore-write $node/done "$1 $status"
done

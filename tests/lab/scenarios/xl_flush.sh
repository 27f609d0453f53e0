# Linux sees a disk with a cache, and every flush of the guest is one of ours: counted when the backend ends.
# shows: Linux 6.1 blkfront: flush
# needs: ringfence
# set: all
# seconds: 90
ringfence_backend
image=$(disk_image a.img 16)
guest g1 "$(disk $image xvda)"
in_guest g1 20 'wait_disk xvda && [ "$(cat /sys/block/xvda/queue/write_cache)" = "write back" ]'
in_guest g1 60 'for n in 1 2 3 4 5; do dd if=/dev/urandom of=/dev/xvda bs=64k count=4 seek=$n conv=fsync || exit 1; done'
guest_off g1
kill -TERM $backend
wait $backend
flushes=$(sed -n 's/.*"served".*"flushes":\([0-9]*\).*/\1/p' /run/ringfence.log | tail -1)
[ "$flushes" -ge 5 ]

# Linux's backend lets go of the disk of our frontend in user space and takes it again, five times under load, as when the kernel's
# module is replaced: nothing is lost. Then the disk grows under it.
# shows: Linux 6.1 blkback: our frontend in user space, several queues
# shows: Linux 6.1 blkback: our frontend in user space, backend unbound and bound again under load
# shows: Linux 6.1 blkback: our frontend in user space, live resize
# needs: ringfence
# set: all
# seconds: 240
linux_blkback
image=$(disk_image a.img 32)
vcpus=2 extra=noblkfront guest g1 "phy:$image,xvda,w"
id=$(xl domid g1)
in_guest g1 20 'modprobe xen-gntalloc'
front=/local/domain/$id/device/vbd/51712 back=/local/domain/0/backend/vbd/$id/51712
driver=/sys/bus/xen-backend/drivers/vbd device=vbd-$id-51712
in_guest g1 10 'RUST_LOG=info ringfence guest --platform xen --queues 2 --verify xvda,3600s >/tmp/out 2>&1 & echo $! >/tmp/pid'
state $back 4
[ "$(xenstore-read $front/multi-queue-num-queues)" = 2 ]
connections() { dmesg | grep -c "xen-blkback: backend/vbd/$id/51712: using 2 queues"; }
more_than() { [ $(connections) -gt $1 ]; }
for round in 1 2 3 4 5; do
  before=$(connections)
  usleep 700000
  echo $device >$driver/unbind
  [ ! -e $driver/$device ]
  # What it leaves behind it lets go of later.
  usleep 2000000
  echo $device >$driver/bind
  [ -e $driver/$device ]
  until_true 20 more_than $before
done
state $back 4
# xen-blkback looks at the size when it is asked for something.
loop=$(xenstore-read $back/physical-device-path 2>/dev/null || xenstore-read $back/node)
truncate -s 48M $image
losetup -c $loop
in_guest g1 20 'n=0; until grep resized /tmp/out; do n=$((n+1)); [ $n -lt 150 ] || { cat /tmp/out; exit 1; }; usleep 100000; done'
[ "$(xenstore-read $back/sectors)" = 98304 ]
in_guest g1 60 'kill -TERM $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do usleep 100000; done; cat /tmp/out; grep -q \"good\":true /tmp/out'
in_guest g1 60 'ringfence guest --platform xen --disk xvda --verify xvda,48M'
guest_off g1
# Linux's backend tried rings that our frontend was just giving up, and leaves there that it could not.
xenstore-rm /local/domain/0/error 2>/dev/null || true

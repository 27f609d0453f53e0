# Disks that come to a busy frontend in user space, and go: nothing of them is left in either domain.
# shows: Linux 6.1 blkback: our frontend in user space, hot attach and detach
# needs: ringfence
# set: all
# seconds: 240
linux_blkback
a=$(disk_image a.img 16) b=$(disk_image b.img 16)
extra=noblkfront guest g1 "phy:$a,xvda,w"
in_guest g1 20 'modprobe xen-gntalloc'
devices=/local/domain/$(xl domid g1)/device/vbd
in_guest g1 20 'ringfence guest --platform xen --verify xvda,3600s >/tmp/out 2>&1 & echo $! >/tmp/pid'
state $devices/51712 4
ports=$(count_ports $(xl domid g1))
for round in 1 2 3 4 5; do
  xl block-attach g1 "phy:$b,xvdb,w"
  state $devices/51728 4
  xl block-detach g1 xvdb
  ! xenstore-read $devices/51728/state
done
[ $(count_ports $(xl domid g1)) = $ports ]
in_guest g1 60 'kill -TERM $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do usleep 100000; done; cat /tmp/out; grep -q \"good\":true /tmp/out'
guest_off g1

# QEMU's backend is told to close the disk of our frontend in user space under load, but not that it goes, five times: each time it is
# opened again, and nothing is lost.
# shows: QEMU 7.2 qdisk: our frontend in user space, device closed and opened again under load
# needs: ringfence, qdisk
# set: all
# seconds: 240
. /lab/qdisk.sh
image=$(disk_image a.img 32)
vcpus=2 extra=noblkfront guest g1 "$(qdisk $image xvda)"
id=$(xl domid g1)
in_guest g1 20 'modprobe xen-gntalloc'
front=/local/domain/$id/device/vbd/51712 back=/local/domain/0/backend/qdisk/$id/51712
in_guest g1 10 'RUST_LOG=info ringfence guest --platform xen --verify xvda,3600s >/tmp/out 2>&1 & echo $! >/tmp/pid'
state $back 4
for round in 1 2 3 4 5; do
  usleep ${round}00000
  xenstore-write $back/state 5
  # By way of all states.
  state $back 4
  state $front 4
done
in_guest g1 60 'kill -TERM $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do usleep 100000; done; cat /tmp/out; grep -q \"good\":true /tmp/out'
in_guest g1 60 'ringfence guest --platform xen --disk xvda --verify xvda,32M'
guest_off g1
device_model_left

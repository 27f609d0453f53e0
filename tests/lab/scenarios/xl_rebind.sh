# The guest's driver closes the disk and connects to the same backend device again, several times. Linux's blkfront gives up
# when it finds its backend closed, and the kernel keeps the state of a device that it knows: so the device is made anew while
# the driver is away. (Linux's own backend forgets a device whose frontend's directory is gone.)
# shows: Linux 6.1 blkfront: frontend closes and connects again
# needs: ringfence
# set: all
# seconds: 150
ringfence_backend
image=$(disk_image a.img 16)
guest g1 "$(disk $image xvda)"
id=$(xl domid g1)
front=/local/domain/$id/device/vbd/51712 back=/local/domain/0/backend/vbd/$id/51712
in_guest g1 30 'random_data xvda 4'
mark
for n in 1 2 3; do
  in_guest g1 30 'echo vbd-51712 >/sys/bus/xen/drivers/vbd/unbind && no_disk xvda'
  in_guest g1 30 'n=0; until rmmod xen-blkfront || [ $n -ge 100 ]; do n=$((n+1)); usleep 100000; done'
  state $front 6
  state $back 6
  xenstore-rm $front
  in_guest g1 30 'n=0; while [ -e /sys/bus/xen/devices/vbd-51712 ] && [ $n -lt 300 ]; do n=$((n+1)); usleep 100000; done'
  xenstore-write $front ''
  xenstore-chmod $front n$id r0
  xenstore-write $front/backend $back $front/backend-id 0 $front/virtual-device 51712 $front/device-type disk
  xenstore-write $front/state 1
  state $back 2
  in_guest g1 30 'modprobe xen-blkfront && wait_disk xvda'
  state $front 4
  state $back 4
  same_data $image 4 g1 xvda
done
in_guest g1 30 'random_data xvda 4'
same_data $image 4 g1 xvda
xl destroy g1
until_true 20 only_dom0

# In a Linux driver domain we stand in for `xl devd`: disks that come to a running guest and go, their nodes removed; what
# cannot be opened; disks that xl would give to QEMU; a guest that is destroyed at work.
# shows: xl 4.17: hot attach and detach from a Linux driver domain
# shows: xl 4.17: fails when a Linux driver domain cannot open a disk
# shows: xl 4.17: backendtype=qdisk of a Linux driver domain, served by ours
# needs: ringfence
# set: all
# seconds: 300
rf() { ringfence --platform xen "$@"; }
no_backends() { ! xenstore-ls -f /local/domain/$a/backend | grep -q -E 'backend/(vbd|qdisk)'; }
mark
config=driver_domain=1 extra=noblkfront guest A
in_guest A 20 'modprobe brd rd_nr=2 rd_size=32768; modprobe xen-gntdev; modprobe xen-privcmd'
in_guest A 40 serve_disks
a=$(xl domid A)
guest B
for round in 1 2 3; do
  xl block-attach B 'backend=A,vdev=xvdb,access=rw,format=raw,backendtype=phy,target=/dev/ram1'
  in_guest B 60 'wait_disk xvdb && random_data xvdb 2'
  xl block-detach B xvdb
  in_guest B 20 'no_disk xvdb'
  until_true 20 no_backends
done
rf block-attach B backend=A,vdev=xvdb,target=/dev/ram1
in_guest B 60 'wait_disk xvdb && random_data xvdb 2'
rf block-detach B xvdb
in_guest B 20 'no_disk xvdb'
fails rf block-attach B backend=A,vdev=xvdb,target=/dev/ram7 2>/tmp/refused
cat /tmp/refused
grep -q /dev/ram7 /tmp/refused
until_true 20 no_backends
# xl waits for a state that never comes, and leaves the nodes, with the reason in them, for block-detach.
fails xl block-attach B 'backend=A,vdev=xvdb,access=rw,format=raw,backendtype=phy,target=/dev/ram7'
[ "$(xenstore-read /local/domain/$a/backend/vbd/$(xl domid B)/51728/hotplug-error)" = '/dev/ram7: no such file' ]
xl block-detach B xvdb
until_true 20 no_backends
guest_off B
guest C 'backend=A,vdev=xvda,access=rw,format=raw,backendtype=qdisk,target=/dev/ram0'
[ "$(xenstore-read /local/domain/$a/backend/qdisk/$(xl domid C)/51712/state)" = 4 ]
in_guest C 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 8 && umount /mnt && fs_check xvda'
start_in C 'random_data xvda 24'
xl destroy C
until_true 30 no_backends || { xenstore-ls -f /local/domain/$a; in_guest A 10 'cat /tmp/log'; false; }
guest_off A
back_to_mark

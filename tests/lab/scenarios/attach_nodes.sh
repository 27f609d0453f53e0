# Our own block-attach, -detach and -list on a running guest: no toolstack is asked, and xl sees the disks.
# shows: Linux 6.1 blkfront: ringfence block-attach and block-detach to a running guest
# shows: xl 4.17: lists and destroys what ringfence block-attach made
# needs: ringfence
# set: all
# seconds: 240
rf() { ringfence --platform xen "$@"; }
refused() { fails rf "$@" 2>/tmp/refused; cat /tmp/refused; }
a=$(disk_image a.img 32) b=$(disk_image b.img 16)
guest g1
mark
# Nobody serves; nothing is left behind.
refused block-attach g1 vdev=xvda,target=/images/nothing.img
grep -q "target '/images/nothing.img'" /tmp/refused
refused block-attach nobody vdev=xvda,target=$a
grep -q 'no domain nobody' /tmp/refused
refused block-attach g1 vdev=xvda,target=$a
grep -q 'no ringfence driver domain is running in domain 0' /tmp/refused
back_to_mark
ringfence_backend
mark
for round in 1 2 3; do
  rf block-attach g1 vdev=xvda,target=$a
  in_guest g1 60 "wait_disk xvda && random_data xvda 2"
  same_data $a 2 g1 xvda
  rf block-detach g1 xvda
  in_guest g1 20 'no_disk xvda'
  back_to_mark
done
rf block-attach g1 "format=raw,vdev=xvda,access=rw,script=block-ringfence,target=$a"
rf block-attach $(xl domid g1) vdev=xvdb,access=ro,target=$b
in_guest g1 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 8 && umount /mnt && fs_check xvda'
in_guest g1 20 'wait_disk xvdb && [ $(blockdev --getro /dev/xvdb) = 1 ]'
rf block-list
rf block-list g1 --json | grep '"backend_state":4,.*"frontend_state":4'
xl block-list g1
[ $(xl block-list g1 | grep -c /local/domain/0/backend/vbd/) = 2 ]
# The same number, the same image.
refused block-attach g1 vdev=xvda,target=$a
grep -q 'is there already' /tmp/refused
refused block-attach g1 vdev=xvdc,target=$a
grep -q 'in use' /tmp/refused
[ $(rf block-list | wc -l) = 3 ]
xl block-detach g1 xvdb
in_guest g1 60 'no_disk xvdb'
refused block-detach g1 xvdb
grep -q 'no disk' /tmp/refused
xl destroy g1
until_true 20 only_dom0
[ $(rf block-list | wc -l) = 1 ]

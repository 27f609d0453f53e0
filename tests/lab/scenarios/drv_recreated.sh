# A driver domain is destroyed under a guest and made again, under a new id: the guest's disk is detached and attached again by the
# toolstack, what it had flushed is there, and nothing leaks.
# shows: Linux 6.1 blkfront: driver domain destroyed and made again under a new id
# needs: ringfence
# set: all
# seconds: 300
image=$(disk_image a.img 32)
linux_blkback
driver_domain() {
  config=driver_domain=1 guest A "$(disk $image xvda)"
  in_guest A 20 'wait_disk xvda; modprobe xen-gntdev; modprobe xen-privcmd; ! grep "^xen_blkback " /proc/modules'
  in_guest A 40 serve_disks
}
disk_of_a() { echo "backend=A,vdev=$2,access=rw,format=raw,target=/dev/$1"; }
mark
driver_domain
old=$(xl domid A)
guest B
xl block-attach B "$(disk_of_a xvda xvdb)"
in_guest B 60 'fs_make xvdb && fs_mount xvdb && fio_verify /mnt/file 4 && sync && (cd /mnt && sha256sum file >/tmp/sum) && umount /mnt'
xl destroy A
xl block-detach B xvdb
in_guest B 30 'no_disk xvdb'
driver_domain
[ "$(xl domid A)" != $old ]
xl block-attach B "$(disk_of_a xvda xvdb)"
in_guest B 60 'wait_disk xvdb && fs_mount xvdb && (cd /mnt && sha256sum -c /tmp/sum) && umount /mnt && fs_check xvdb && fio_verify /dev/xvdb 8'
# What is asked of a disk whose driver domain is gone waits: it neither fails nor is it answered. Linux's blkfront then keeps the disk
# and takes no new one either, whoever served it.
xl destroy A
in_guest B 20 '(dd if=/dev/xvdb of=/dev/null bs=4k count=1 iflag=direct 2>/tmp/dd; echo $? >/tmp/answered) >/dev/null 2>&1 & usleep 3000000; [ ! -e /tmp/answered ]'
xl block-detach B xvdb
in_guest B 20 'usleep 2000000; if [ -e /tmp/answered ]; then echo "the read came back: $(cat /tmp/answered /tmp/dd)"; else echo "the read waits"; fi; ls /dev/xvd*; dmesg | tail -3'
xl destroy B
until_true 20 only_dom0
back_to_mark

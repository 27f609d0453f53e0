# A driver domain is destroyed under a guest and made again, under a new id: the guest's disk is detached and attached again by the
# toolstack, what it had flushed is there, and nothing leaks.
# shows: Linux 6.1 blkfront: driver domain destroyed and made again under a new id
# needs: ringfence
# set: all
# seconds: 300
image=$(disk_image a.img 32) other=$(disk_image b.img 16)
linux_blkback
driver_domain() {
  config=driver_domain=1 guest A "$(disk $image xvda)" "$(disk $other xvdb)"
  in_guest A 20 'wait_disk xvda; modprobe xen-gntdev; modprobe xen-privcmd; ! grep "^xen_blkback " /proc/modules'
  in_guest A 40 'ringfence driver-domain --platform xen >/tmp/log 2>&1 & n=0; until grep "\"ready\"" /tmp/log; do n=$((n+1)); [ $n -lt 300 ] || { cat /tmp/log; exit 1; }; usleep 100000; done'
}
disk_of_a() { echo "backend=A,vdev=$2,access=rw,format=raw,target=/dev/$1"; }
driver_domain
old=$(xl domid A)
guest B
mark
xl block-attach B "$(disk_of_a xvda xvdb)"
xl block-attach B "$(disk_of_a xvdb xvdc)"
in_guest B 60 'fs_make xvdb && fs_mount xvdb && fio_verify /mnt/file 4 && sync && (cd /mnt && sha256sum file >/tmp/sum) && umount /mnt && wait_disk xvdc'
xl destroy A
# What is asked of a disk now waits: it neither fails nor is it answered.
in_guest B 20 '(dd if=/dev/xvdc of=/dev/null bs=4k count=1 iflag=direct 2>/tmp/dd; echo $? >/tmp/answered) >/dev/null 2>&1 & usleep 3000000; [ ! -e /tmp/answered ]'
xl block-detach B xvdb
in_guest B 30 'no_disk xvdb'
xl block-detach B xvdc
driver_domain
[ "$(xl domid A)" != $old ]
xl block-attach B "$(disk_of_a xvda xvdb)"
in_guest B 60 'wait_disk xvdb && fs_mount xvdb && (cd /mnt && sha256sum -c /tmp/sum) && umount /mnt && fs_check xvdb && fio_verify /dev/xvdb 8'
# What became of the read that was on its way: blkfront neither answers it nor lets go of the disk.
in_guest B 20 'ls /dev/xvd*; if [ -e /tmp/answered ]; then echo "the read came back: $(cat /tmp/answered /tmp/dd)"; else echo "the read waits"; fi'
xl destroy B
guest_off A

# Our backend in a Linux driver domain, its disk given to another guest by xl's backend=; the kernel's backend is nowhere.
# shows: Linux 6.1 blkfront: our backend in a Linux driver domain
# needs: ringfence
# seconds: 200
no_backends() { ! xenstore-ls -f /local/domain/$1/backend | grep -q /state; }
fails grep -q '^xen_blkback ' /proc/modules
mark
config=driver_domain=1 extra=noblkfront guest A
in_guest A 20 'modprobe brd rd_nr=1 rd_size=32768; modprobe xen-gntdev; modprobe xen-privcmd; ! grep "^xen_blkback " /proc/modules'
in_guest A 40 serve_disks
guest B 'backend=A,vdev=xvda,access=rw,format=raw,target=/dev/ram0'
in_guest B 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 8 && umount /mnt && fs_check xvda && random_data xvda 2'
there=$(in_guest B 30 'checksum xvda 2')
here=$(in_guest A 30 'checksum ram0 2')
[ "$here" = "$there" ]
id=$(xl domid A)
guest_off B
until_true 20 no_backends $id || { xenstore-ls -f /local/domain/$id; in_guest A 10 'cat /tmp/log'; false; }
guest_off A
back_to_mark

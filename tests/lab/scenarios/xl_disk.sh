# A disk of ours in dom0, attached by xl: a file system lives on it, and nothing stays behind when the guest has gone.
# shows: Linux 6.1 blkfront: mkfs, mount, fio verify, fsck
# needs: ringfence
# seconds: 150
ringfence_backend
image=$(disk_image a.img 64)
mark
guest g1 "$(disk $image xvda)"
in_guest g1 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 8 && umount /mnt && fs_check xvda'
in_guest g1 30 'random_data xvda 4'
same_data $image 4 g1 xvda
guest_off g1
back_to_mark

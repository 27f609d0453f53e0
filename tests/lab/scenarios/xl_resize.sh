# An image grows while the guest has its file system mounted; the guest sees the new size and uses it.
# shows: Linux 6.1 blkfront: resize while mounted
# needs: ringfence
# set: all
# seconds: 120
ringfence_backend
image=$(disk_image a.img 16)
mark
guest g1 "$(disk $image xvda)"
in_guest g1 60 'fs_make xvda && fs_mount xvda && [ $(blockdev --getsize64 /dev/xvda) = 16777216 ]'
truncate -s 64M $image
in_guest g1 60 'n=0; until [ $(blockdev --getsize64 /dev/xvda) = 67108864 ]; do n=$((n+1)); [ $n -lt 300 ] || exit 1; usleep 100000; done'
in_guest g1 60 'resize2fs /dev/xvda && fio_verify /mnt/file 32 && umount /mnt && fs_check xvda'
guest_off g1
back_to_mark

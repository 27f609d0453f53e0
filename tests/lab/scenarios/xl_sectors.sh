# Disks with sectors of 4096 bytes: a block device that has such, given to a guest; what is smaller than a sector is not its to write.
# shows: Linux 6.1 blkfront: sectors of 4096 bytes
# needs: ringfence
# set: all
# seconds: 120
ringfence_backend
modprobe sd_mod && modprobe scsi_debug sector_size=4096 dev_size_mb=32 lbpu=1
until_true 20 [ -b /dev/sda ]
[ "$(blockdev --getss /dev/sda)" = 4096 ]
mark
guest g1 "$(disk /dev/sda xvda)"
in_guest g1 30 'wait_disk xvda && [ $(blockdev --getss /dev/xvda) = 4096 ] && [ $(blockdev --getsize64 /dev/xvda) = 33554432 ]'
back=$(xenstore-read /local/domain/$(xl domid g1)/device/vbd/51712/backend)
[ "$(xenstore-read $back/sector-size)" = 4096 ] && [ "$(xenstore-read $back/sectors)" = 65536 ]
in_guest g1 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 8 && umount /mnt && fs_check xvda && random_data xvda 4'
same_data /dev/sda 4 g1 xvda
guest_off g1
back_to_mark

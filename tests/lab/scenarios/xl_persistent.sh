# Persistent grants, on and off: the same disk with a guest that keeps its grants and with one that does not.
# shows: Linux 6.1 blkfront: persistent grants
# needs: ringfence
# set: all
# seconds: 240
ringfence_backend
image=$(disk_image a.img 64)
mark
vcpus=2 guest g1 "$(disk $image xvda)"
in_guest g1 20 'wait_disk xvda && dmesg | grep "blkfront: xvda: .*persistent grants: enabled"'
id=$(xl domid g1)
[ "$(xenstore-read /local/domain/$id/device/vbd/51712/feature-persistent)" = 1 ]
in_guest g1 60 'fio_verify /dev/xvda 32 && random_data xvda 4'
same_data $image 4 g1 xvda
# Kept mapped between requests, and let go with the disk.
kept=$(count_grants $id)
[ $kept -gt 20 ] || fail "only $kept grants are mapped"
in_guest g1 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 16 && umount /mnt && fs_check xvda'
guest_off g1
back_to_mark
extra='xen_blkfront.feature_persistent=0' guest g2 "$(disk $image xvda)"
in_guest g2 20 'wait_disk xvda && dmesg | grep "blkfront: xvda: .*persistent grants: disabled" && fs_check xvda'
in_guest g2 60 'fio_verify /dev/xvda 32'
guest_off g2
back_to_mark

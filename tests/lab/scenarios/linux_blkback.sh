# The control experiment: Linux's own backend and frontend, none of ours. Also shows that the counts of what is left
# behind can see something.
# shows: Linux 6.1 blkback with Linux 6.1 blkfront: mkfs, mount, fio verify, fsck
# set: all
# seconds: 120
linux_blkback
image=$(disk_image a.img 64)
ports=$(count_ports 0) nodes=$(count_nodes)
guest g1 "phy:$image,xvda,w"
in_guest g1 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 8 && umount /mnt && fs_check xvda'
in_guest g1 60 'random_data xvda 2'
same_data $image 2 g1 xvda
[ "$(count_ports 0)" -gt $ports ]
[ "$(count_nodes)" -gt $nodes ]
[ "$(count_grants)" -gt 0 ]
guest_off g1

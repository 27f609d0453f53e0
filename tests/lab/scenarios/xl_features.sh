# A guest with two processors and a blkfront that may use a ring of 16 pages takes what our backend offers: several queues,
# large rings, indirect requests, discard. Without persistent grants: blkfront sets pages aside for every segment of every request
# that the rings hold, which would be a gigabyte.
# shows: Linux 6.1 blkfront: several queues
# shows: Linux 6.1 blkfront: ring of 16 pages
# shows: Linux 6.1 blkfront: indirect segments
# shows: Linux 6.1 blkfront: discard
# needs: ringfence
# seconds: 200
ringfence_backend
image=$(disk_image a.img 64)
mark
vcpus=2 extra='xen_blkfront.feature_persistent=0 xen_blkfront.max_ring_page_order=4 xen_blkfront.max_indirect_segments=256' guest g1 "$(disk $image xvda)"
in_guest g1 20 'wait_disk xvda'
front=/local/domain/$(xl domid g1)/device/vbd/51712
xenstore-ls $front
[ "$(xenstore-read $front/multi-queue-num-queues)" = 2 ]
[ "$(xenstore-read $front/ring-page-order)" = 4 ]
xenstore-read $front/queue-1/ring-ref15
in_guest g1 10 'cat /sys/block/xvda/queue/max_segments; [ $(cat /sys/block/xvda/queue/max_segments) = 256 ]'
in_guest g1 10 '[ $(cat /sys/block/xvda/queue/discard_max_bytes) -gt 0 ] && [ $(ls /sys/block/xvda/mq | wc -l) = 2 ]'
in_guest g1 60 'fio_verify /dev/xvda 32 --bsrange=4k-1024k --numjobs=2 --offset_increment=32M'
in_guest g1 30 'random_data xvda 8'
same_data $image 8 g1 xvda
# Discarded blocks take no room, and read as zeroes.
used=$(du -k $image | cut -f1)
in_guest g1 30 'blkdiscard -o 0 -l 4194304 /dev/xvda && [ "$(checksum xvda 4)" = "$(dd if=/dev/zero bs=1M count=4 2>/dev/null | sha256sum)" ]'
[ $(du -k $image | cut -f1) -le $((used - 4000)) ]
in_guest g1 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 8 && fstrim -v /mnt && umount /mnt && fs_check xvda'
guest_off g1
back_to_mark

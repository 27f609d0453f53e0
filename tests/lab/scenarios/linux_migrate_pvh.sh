# A Linux PVH guest is migrated to the same machine while it verifies a disk of Linux's own backend.
# shows: Linux 6.1 blkback with Linux 6.1 blkfront: migration to localhost under load, PVH guest
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 300
linux_blkback
image=$(disk_image a.img 32)
type=pvh vcpus=1 memory=256 guest g1 "$(disk $image xvda)"
in_guest g1 30 'wait_disk xvda'
job=$(start_in g1 'fio_verify /dev/xvda 6 --loops=3')
sleep 3
migrate_here g1
wait_in g1 $job 100
guest_off g1

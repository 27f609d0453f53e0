# A Linux PVH guest is migrated to the same machine while it verifies a disk. For whichever backend was started.
image=$(disk_image a.img 32)
mark
type=pvh vcpus=1 memory=256 guest g1 "$(disk $image xvda)"
in_guest g1 30 'wait_disk xvda'
job=$(start_in g1 'fio_verify /dev/xvda 6 --loops=3')
sleep 3
migrate_here g1
wait_in g1 $job 100
in_guest g1 30 'random_data xvda 4'
same_data $image 4 g1 xvda
guest_off g1
back_to_mark

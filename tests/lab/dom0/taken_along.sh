# A Linux guest verifies a disk, and by=save_here or by=migrate_here is done to it meanwhile. For whichever backend was started.
image=$(disk_image a.img 32)
mark
type=${type:-pvh} vcpus=${vcpus:-1} memory=256 guest g1 "$(disk $image xvda)"
in_guest g1 30 'wait_disk xvda'
job=$(start_in g1 "fio_verify /dev/xvda ${mib:-6} --loops=${loops:-3}")
sleep 3
$by g1
wait_in g1 $job 120
in_guest g1 30 'random_data xvda 4'
same_data $image 4 g1 xvda
guest_off g1
back_to_mark

# The backend's process is killed fifty times while a guest writes at random and verifies: no error, every byte as it was. Persistent
# grants are `persistent` (enabled, disabled).
[ $persistent = enabled ] || arguments=xen_blkfront.feature_persistent=0
ringfence_backend
image=$(disk_image a.img 32)
mark
vcpus=2 extra=${arguments:-} guest g1 "$(disk $image xvda)"
id=$(xl domid g1)
in_guest g1 20 "wait_disk xvda && dmesg | grep 'blkfront: xvda: .*persistent grants: $persistent'"
[ "$(xenstore-read /local/domain/$id/device/vbd/51712/multi-queue-num-queues)" = 2 ]
in_guest g1 10 'verify_on xvda 16'
for round in $(seq 50); do
  kill_serving
  case $round in *[05]) sleep 1 ;; *) usleep ${round}0000 ;; esac
done
[ "$(xenstore-read /local/domain/0/backend/vbd/$id/51712/state)" = 4 ]
in_guest g1 120 'verified xvda && no_complaints'
in_guest g1 30 'random_data xvda 4'
same_data $image 4 g1 xvda
guest_off g1
back_to_mark

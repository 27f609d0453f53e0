# The backend's process in a Linux driver domain is killed fifty times while another guest writes at random and verifies: no
# error, every byte as it was. In a driver domain I/O is direct. Persistent grants are `persistent` (enabled, disabled).
[ $persistent = enabled ] || arguments=xen_blkfront.feature_persistent=0
no_backends() { ! xenstore-ls -f /local/domain/$1/backend | grep -q /state; }
mark
config=driver_domain=1 extra=noblkfront guest A
in_guest A 20 'modprobe brd rd_nr=1 rd_size=65536; modprobe ext4; modprobe xen-gntdev; modprobe xen-privcmd; mkfs.ext4 -q /dev/ram0 && mount -t ext4 /dev/ram0 /mnt && truncate -s 32M /mnt/a.img'
in_guest A 40 serve_disks
vcpus=2 extra=${arguments:-} guest B 'backend=A,vdev=xvda,access=rw,format=raw,target=/mnt/a.img'
a=$(xl domid A) b=$(xl domid B)
in_guest B 20 "wait_disk xvda && dmesg | grep 'blkfront: xvda: .*persistent grants: $persistent'"
[ "$(xenstore-read /local/domain/$b/device/vbd/51712/multi-queue-num-queues)" = 2 ]
in_guest B 10 'verify_on xvda 16'
in_guest A 300 'for round in $(seq 50); do kill_serving || exit 1; case $round in *[05]) sleep 1 ;; *) usleep ${round}0000 ;; esac; done; grep -c "\"ready\"" /tmp/log'
[ "$(xenstore-read /local/domain/$a/backend/vbd/$b/51712/state)" = 4 ]
in_guest B 120 'verified xvda && no_complaints'
in_guest B 30 'random_data xvda 4'
there=$(in_guest B 30 'checksum xvda 4')
here=$(in_guest A 30 'dd if=/mnt/a.img bs=1M count=4 2>/dev/null | sha256sum')
[ "$here" = "$there" ]
guest_off B
until_true 20 no_backends $a || { xenstore-ls -f /local/domain/$a; in_guest A 10 'cat /tmp/log'; false; }
guest_off A
back_to_mark

# The control experiment with QEMU's backend: Linux's frontend, none of ours. One disk is there from the start, one comes
# while the guest runs, for which xl starts no second device model.
# shows: QEMU 7.2 qdisk with Linux 6.1 blkfront: mkfs, mount, fio verify, fsck
# shows: QEMU 7.2 qdisk with Linux 6.1 blkfront: hot attach and detach
# set: all
# seconds: 240
# needs: qdisk
. /lab/qdisk.sh
first=$(disk_image a.img 64) second=$(disk_image b.img 32)
guest g1 "$(qdisk $first xvda)"
in_guest g1 90 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 8 && umount /mnt && fs_check xvda'
in_guest g1 60 'random_data xvda 2'
same_data $first 2 g1 xvda
xl block-attach g1 "$(qdisk $second xvdb)"
[ $(pidof xen-qemu-system-i386 | wc -w) = 1 ]
in_guest g1 60 'wait_disk xvdb && random_data xvdb 2'
same_data $second 2 g1 xvdb
# What it does not offer is what a frontend must do without.
id=$(xl domid g1)
backend=/local/domain/0/backend/qdisk/$id/51712
[ "$(xenstore-read $backend/state)" = 4 ]
for feature in feature-persistent feature-max-indirect-segments; do
  offered=$(xenstore-read $backend/$feature 2>/dev/null || echo 0)
  [ $offered = 0 ] || fail "$feature is $offered"
done
xenstore-ls $backend
xl block-detach g1 xvdb
in_guest g1 60 'no_disk xvdb'
guest_off g1
device_model_left

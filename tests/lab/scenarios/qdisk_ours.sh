# Our frontend in user space of a Linux domain against QEMU's backend, which offers neither persistent grants nor indirect
# segments.
# shows: QEMU 7.2 qdisk: our frontend in user space, verify
# shows: QEMU 7.2 qdisk: our frontend in user space, copy of one disk to another
# shows: QEMU 7.2 qdisk: our frontend in user space, started again after its end and after its death
# seconds: 300
# needs: ringfence, qdisk
# set: all
. /lab/qdisk.sh
a=$(disk_image a.img 16) b=$(disk_image b.img 16)
extra=noblkfront guest g1 "$(qdisk $a xvda)" "$(qdisk $b xvdb)"
in_guest g1 20 'modprobe xen-gntalloc'
front='ringfence guest --platform xen'
in_guest g1 60 "$front --disk xvda --verify xvda,16M"
! cmp $a $b >/dev/null || fail "the disks were the same before the copy"
# It closed in order; the next process connects again.
in_guest g1 60 "$front --disk xvda --disk xvdb --copy xvda=xvdb"
cmp $a $b
in_guest g1 60 "$front --disk xvda --verify xvda,8M --depth 1"
# One that dies leaves the states at 4 and 4, and the next one takes them through all states.
back=$(xenstore-read /local/domain/$(xl domid g1)/device/vbd/51712/backend)
in_guest g1 20 "$front --verify xvda,3600s >/tmp/out 2>&1 & echo \$! >/tmp/pid"
state $back 4
in_guest g1 20 'kill -KILL $(cat /tmp/pid)'
has_state $back 4
in_guest g1 60 "$front --disk xvda --verify xvda,4M --depth 7"
guest_off g1
device_model_left

# Our frontend in user space of a Linux domain against Linux's own backend.
# shows: Linux 6.1 blkback: our frontend in user space, verify
# shows: Linux 6.1 blkback: our frontend in user space, copy of one disk to another
# shows: Linux 6.1 blkback: our frontend in user space, started again after its end and after its death
# needs: ringfence
# seconds: 240
linux_blkback
a=$(disk_image a.img 16) b=$(disk_image b.img 16)
extra=noblkfront guest g1 "phy:$a,xvda,w" "phy:$b,xvdb,w"
in_guest g1 20 'modprobe xen-gntalloc'
front='ringfence guest --platform xen'
in_guest g1 60 "$front --disk xvda --verify xvda,16M"
# It closed in order; the next process connects again.
in_guest g1 60 "$front --disk xvda --disk xvdb --copy xvda=xvdb"
cmp $a $b
# One that dies leaves the states at 4 and 4, and the next one takes them through all states.
back=$(xenstore-read /local/domain/$(xl domid g1)/device/vbd/51712/backend)
in_guest g1 20 "$front --verify xvda,3600s >/tmp/out 2>&1 & echo \$! >/tmp/pid"
state $back 4
in_guest g1 20 'kill -KILL $(cat /tmp/pid)'
has_state $back 4
in_guest g1 60 "$front --disk xvda --verify xvda,4M --depth 7"
guest_off g1

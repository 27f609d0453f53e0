# Our frontend in user space of a Linux domain takes what Linux's backend offers: a ring of 16 pages, indirect segments, persistent
# grants.
# shows: Linux 6.1 blkback: our frontend in user space, indirect segments
# shows: Linux 6.1 blkback: our frontend in user space, persistent grants
# shows: Linux 6.1 blkback: our frontend in user space, ring of 16 pages
# needs: ringfence
# set: all
# seconds: 300
linux_blkback
a=$(disk_image a.img 64) b=$(disk_image b.img 64)
extra=noblkfront guest g1 "phy:$a,xvda,w" "phy:$b,xvdb,w"
in_guest g1 20 'modprobe xen-gntalloc'
dir=/local/domain/$(xl domid g1)/device/vbd/51712
front='ringfence guest --platform xen'
run=$(start_in g1 "$front --disk xvda --verify xvda,48M --depth 64")
state $dir 4
xenstore-ls $dir
[ "$(xenstore-read $dir/ring-page-order)" = 4 ] && xenstore-read $dir/ring-ref15
[ "$(xenstore-read $dir/feature-persistent)" = 1 ]
dmesg | grep 'xen-blkback.*persistent grants'
wait_in g1 $run 120
in_guest g1 60 "$front --disk xvda --verify xvda,16M --depth 288"
in_guest g1 60 "$front --disk xvda --verify xvda,16M --no-persistent"
no_node $dir/feature-persistent || [ "$(xenstore-read $dir/feature-persistent)" = 0 ]
in_guest g1 60 "$front --disk xvda --disk xvdb --copy xvda=xvdb"
cmp $a $b
guest_off g1

# Guests with disks and a network of Linux's backends live on our xenstored from their creation to their end.
# shows: ringfence xenstored in dom0: xl creates, attaches, saves, restores, shuts down and destroys guests
# needs: ringfence
# boot: store
# dom0: store=ringfence
# set: all
# seconds: 300
ps | grep -q '[r]ingfence xenstored'
linux_blkback
modprobe xen-netback; modprobe bridge
brctl addbr xenbr0; ip addr add 10.0.0.1/24 dev xenbr0; ip link set xenbr0 up
a=$(disk_image a.img 32) b=$(disk_image b.img 16)
memory=192 vcpus=2 config='vif=["bridge=xenbr0,script=/etc/xen/scripts/vif-bridge"]'
guest g "phy:$a,xvda,w"
[ "$(xenstore-read /local/domain/$(xl domid g)/name)" = g ]
in_guest g 60 'modprobe xen-netfront && ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up && ping -c 3 10.0.0.1'
in_guest g 60 'fs_make xvda && random_data xvda 2'
same_data $a 2 g xvda
for round in 1 2 3; do
  xl block-attach g "phy:$b,xvdb,w"
  in_guest g 30 'wait_disk xvdb && random_data xvdb 1'
  xl block-detach g xvdb
  in_guest g 30 'no_disk xvdb'
done
# A guest that asks without end does not keep the tools waiting.
flood=$(start_in g 'echo "A many 5000 read name" | lab-store /dev/xen/xenbus')
for n in 1 2 3 4 5 6 7 8 9 10; do
  timeout $((10 * patience)) xenstore-write /flood/$n $n
  timeout $((10 * patience)) xenstore-ls /flood >/dev/null
done
xenstore-rm /flood
wait_in g $flood 60
old=$(xl domid g)
xl save g /tmp/g.save
until_true 20 gone $old
xl restore /tmp/g.save
rm /tmp/g.save
[ "$(xl domid g)" != $old ]
same_data $a 2 g xvda
in_guest g 30 'ping -c 3 10.0.0.1'
xl block-attach g "phy:$b,xvdb,w"
in_guest g 30 'wait_disk xvdb && random_data xvdb 1'
guest_off g
config= guest h "phy:$a,xvda,w"
same_data $a 2 h xvda
# Two at once, and both are destroyed as they run.
config= guest i "phy:$b,xvda,w"
in_guest i 30 'random_data xvda 1'
xl destroy h
xl destroy i
until_true 20 only_dom0
ip link set xenbr0 down; brctl delbr xenbr0

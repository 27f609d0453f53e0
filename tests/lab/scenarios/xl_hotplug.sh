# Disks of ours that come and go a hundred times while the guest runs: nothing leaks, here or in the guest.
# shows: Linux 6.1 blkfront: hot attach and detach 100 times without a leak
# needs: ringfence
# seconds: 600
# set: all
ringfence_backend
image=$(disk_image a.img 8)
guest g1
id=$(xl domid g1)
# Once before counting: what exists from the first time on is no leak.
hotplug() {
  xl block-attach g1 "$(disk $image xvdb)"
  in_guest g1 20 "wait_disk xvdb 10 && $1"
  xl block-detach g1 xvdb
  in_guest g1 20 'no_disk xvdb 10'
}
hotplug 'random_data xvdb 1'
mark
guest_ports=$(count_ports $id)
for n in $(seq 100); do
  case $n in *0) hotplug 'random_data xvdb 1' ;; *) hotplug true ;; esac
done
back_to_mark
[ $(count_ports $id) = $guest_ports ]
in_guest g1 10 '! dmesg | grep -i "leak\|still in use"'
guest_off g1

# Our frontend in user space of a Linux domain against our own backend in dom0.
# shows: ringfence backend: our frontend in user space, verify
# shows: ringfence backend: our frontend in user space, read-only disk
# shows: ringfence backend: our frontend in user space, backend killed under load
# shows: ringfence backend: our frontend in user space, detached while busy
# needs: ringfence
# seconds: 300
ringfence_backend
a=$(disk_image a.img 8) b=$(disk_image b.img 8)
extra=noblkfront guest g1 "$(disk $a xvda)" "$(disk $b xvdb ro)"
in_guest g1 20 'modprobe xen-gntalloc'
front='ringfence guest --platform xen'
in_guest g1 60 "$front --disk xvda --verify xvda,8M"
in_guest g1 60 "! $front --disk xvdb --verify xvdb >/tmp/out 2>&1; cat /tmp/out; grep -q 'read-only' /tmp/out"
in_guest g1 120 "$front --disk xvda --verify xvda,2M --depth 1"
# The backend's process dies twice under load: the disk stays, and nothing is lost.
devices=/local/domain/$(xl domid g1)/device/vbd
n=$(start_in g1 "$front --disk xvda --verify xvda,24M")
for death in 1 2; do
  state $devices/51712 4
  kill_serving
done
wait_in g1 $n 120
# Detached under load: the load ends with an error, and nothing is left of the disk.
n=$(start_in g1 "! $front --disk xvda --verify xvda,3600s")
state $devices/51712 4
xl block-detach g1 xvda
wait_in g1 $n 30
! xenstore-read $devices/51712/state
guest_off g1

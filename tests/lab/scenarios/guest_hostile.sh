# A guest kernel of ours with a disk whose backend lies to it, in every way there is, and with one whose requests fail. Each time
# it says what is wrong with that disk, uses its other disk, and ends in order.
# shows: Hostile backend: rings, answers and nodes of our guest kernel's disk
# needs: ringfence, guest-image
# set: all
# seconds: 300
ringfence_backend
image_disks
# survived NAME: the first disk failed, the second one is right
survived() {
  until_true 90 gone $1
  guest_log $1
  guest_log $1 | grep -q '^ERROR: FAIL disk 51712: '
  guest_log $1 | grep -q '^INFO: PASS disk 51728: read 4 files'
  guest_log $1 | grep -q '^ERROR: FAIL 1 disks'
  fails grep -q panicked $console/guest-$1.log
}
for way in ahead back answers noise nodes; do
  extra=rounds=10000 image_guest $way "$(disk $scratch xvda)" "$(disk $files xvdb ro)"
  wait_log $way "disk 51712: round 1" 60
  lab-peer scribble $(xl domid $way) 51712 $way
  survived $way
done
image_guest fault "$(disk "$scratch,fault.ops=read+write,fault.every=100" xvda)" "$(disk $files xvdb ro)"
survived fault
kill -0 $backend

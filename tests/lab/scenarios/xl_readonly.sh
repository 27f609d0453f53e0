# A read-only disk of ours: Linux says so, cannot write, and reads what is there.
# shows: Linux 6.1 blkfront: read-only disk
# needs: ringfence
# set: all
# seconds: 90
ringfence_backend
image=$(disk_image a.img 8)
dd if=/dev/urandom of=$image bs=1M count=8 conv=notrunc 2>/dev/null
before=$(sha256sum <$image)
guest g1 "$(disk $image xvda ro)"
in_guest g1 20 'wait_disk xvda && [ $(cat /sys/block/xvda/ro) = 1 ]'
same_data $image 8 g1 xvda
in_guest g1 20 '! dd if=/dev/zero of=/dev/xvda bs=4k count=1 oflag=direct'
[ "$(sha256sum <$image)" = "$before" ]
guest_off g1

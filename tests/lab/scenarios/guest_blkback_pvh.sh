# The same guest kernel as a PVH guest, against Linux's own backend.
# shows: Linux 6.1 blkback: our guest kernel, PVH
# needs: guest-image
# set: all
# seconds: 120
linux_blkback
image_disks
type=pvh memory=64 image_guest pvh "$(disk $files xvda ro)" "$(disk $scratch xvdb)"
image_passes pvh 51712 51728

# A guest kernel of ours, without an operating system, against Linux's own backend.
# shows: Linux 6.1 blkback: our guest kernel, PV
# needs: guest-image
# seconds: 120
linux_blkback
image_disks
image_guest pv "$(disk $files xvda ro)" "$(disk $scratch xvdb)"
image_passes pv 51712 51728

# A guest kernel of ours, without an operating system, against Linux's own backend.
# shows: Linux 6.1 blkback: our frontend in a guest kernel of its own (PV), reads an ext4
# shows: Linux 6.1 blkback: our frontend in a guest kernel of its own (PV), writes and verifies
# needs: guest-image
# set: all
# seconds: 120
linux_blkback
image_disks
image_guest pv "$(disk $files xvda ro)" "$(disk $scratch xvdb)"
image_passes pv 51712 51728

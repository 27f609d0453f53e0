# A guest kernel of ours, without an operating system, against our own backend in dom0.
# shows: ringfence backend: our frontend in a guest kernel of its own (PV), reads an ext4
# shows: ringfence backend: our frontend in a guest kernel of its own (PV), writes and verifies
# needs: ringfence, guest-image
# set: all
# seconds: 120
ringfence_backend
image_disks
image_guest pv "$(disk $files xvda ro)" "$(disk $scratch xvdb)"
image_passes pv 51712 51728

# A guest kernel of ours, without an operating system, against our own backend in dom0.
# shows: ringfence backend: our guest kernel, PV
# needs: ringfence, guest-image
# seconds: 120
ringfence_backend
image_disks
image_guest pv "$(disk $files xvda ro)" "$(disk $scratch xvdb)"
image_passes pv 51712 51728

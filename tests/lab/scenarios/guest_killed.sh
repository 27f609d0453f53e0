# A guest kernel of ours writes and verifies while the process of our backend in dom0 dies, three times.
# shows: ringfence backend: our guest kernel, PV, backend killed under load
# needs: ringfence, guest-image
# set: all
# seconds: 240
ringfence_backend
image_disks
extra=rounds=60 image_guest pv "$(disk $scratch xvdb)"
for death in 1 2 3; do
  wait_log pv "disk 51728: round ${death}2" 60
  kill_serving
done
image_passes pv 51728

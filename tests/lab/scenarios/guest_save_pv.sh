# A guest kernel of ours is saved to a file in the middle of its load, and restored, twice; it writes and verifies on.
# Before that a copy of it is saved, and it goes on itself.
# shows: ringfence backend: our guest kernel, PV, saved and restored under load
# needs: ringfence, guest-image
# seconds: 240
ringfence_backend
image_disks
mark
times=3
export type=pv extra=rounds=60
. /lab/save_image.sh

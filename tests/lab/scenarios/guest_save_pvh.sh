# A guest kernel of ours is saved to a file in the middle of its load, and restored, twice, as a PVH guest.
# Before that a copy of it is saved, and it goes on itself.
# With two processors PVH guests die at random in this emulation: see xl_save_pvh.sh.
# shows: ringfence backend: our guest kernel, PVH, saved and restored under load
# needs: ringfence, guest-image
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 240
ringfence_backend
image_disks
mark
times=3
export type=pvh memory=64 extra=rounds=30
. /lab/save_image.sh

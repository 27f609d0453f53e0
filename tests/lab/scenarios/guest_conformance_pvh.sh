# The same with PVH guests. With two processors those die at random in this emulation: see xl_save_pvh.sh.
# shows: Xen 4.17: the platforms' contracts between guest kernels of ours, PVH
# needs: ringfence, agent-image
# set: all
# boot: pvh
# cpus: 1
# thread: single
# seconds: 180
type=pvh
. /lab/conformance_image.sh

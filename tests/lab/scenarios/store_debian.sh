# The record of what Debian's xenstored answers is still true.
# shows: Xen 4.17 xenstored: the store script, as recorded
# needs: ringfence
# set: all
# seconds: 120
. /lab/store/compare.sh

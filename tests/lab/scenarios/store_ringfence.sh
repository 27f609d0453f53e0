# Our xenstored answers the store script as Debian's does.
# shows: ringfence xenstored in dom0: the store script, as Xen 4.17's xenstored
# needs: ringfence
# boot: store
# dom0: store=ringfence
# seconds: 120
. /lab/store/compare.sh

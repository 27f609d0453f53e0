# A disk that is detached, and a guest that is destroyed, with requests in flight.
# shows: Linux 6.1 blkfront: detach while busy
# shows: Linux 6.1 blkfront: guest destroyed while busy
# needs: ringfence
# set: all
# seconds: 200
ringfence_backend
. /lab/busy.sh

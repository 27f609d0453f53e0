# The same with Linux's own backend: A disk that is detached, and a guest that is destroyed, with requests in flight.
# shows: Linux 6.1 blkback with Linux 6.1 blkfront: detach while busy
# shows: Linux 6.1 blkback with Linux 6.1 blkfront: guest destroyed while busy
# set: all
# seconds: 200
linux_blkback
. /lab/busy.sh

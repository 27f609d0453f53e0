# The backend's process in a Linux driver domain is killed fifty times while a guest of two processors writes at random and
# verifies: no error, every byte as it was. Without persistent grants.
# shows: Linux 6.1 blkfront: backend in a driver domain killed 50 times under fio verify, without persistent grants
# needs: ringfence
# set: all
# seconds: 400
persistent=disabled
. /lab/killed_drv.sh

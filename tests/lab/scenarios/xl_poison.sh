# One request ends whichever process is given it. The third process that died of it is the last: the guest gets an error for that
# request, and for no other of this disk or of another one.
# shows: Linux 6.1 blkfront: a request that kills the backend fails alone
# needs: ringfence
# set: all
# seconds: 240
processes() { grep -c '"ready"' /run/ringfence.log; }
ringfence_backend
bad=$(disk_image bad.img 16) good=$(disk_image good.img 16)
mark
guest g1 "$(disk "fault.crash=on,fault.ops=write,fault.sectors=16384-16391,target=$bad" xvda)" "$(disk $good xvdb)"
id=$(xl domid g1)
in_guest g1 20 'wait_disk xvda && wait_disk xvdb'
in_guest g1 30 'random_data xvda 4'
[ $(processes) = 1 ]
in_guest g1 10 'verify_on xvda 4 --io_size=2M; verify_on xvdb 4 --io_size=2M'
in_guest g1 10 'usleep 500000'
in_guest g1 90 '! dd if=/dev/zero of=/dev/xvda bs=4k seek=2048 count=1 oflag=direct'
[ $(processes) = 4 ]
in_guest g1 30 'dd if=/dev/xvda of=/dev/null bs=4k skip=2047 count=3 iflag=direct && dd if=/dev/zero of=/dev/xvda bs=4k seek=2049 count=2 oflag=direct'
in_guest g1 90 'verified xvda xvdb'
in_guest g1 10 'dmesg | grep -i "I/O error"; [ $(dmesg | grep -c -i "I/O error") = 1 ] && dmesg | grep -i "I/O error.* xvda, sector 16384 "'
[ $(processes) = 4 ]
for disk in 51712 51728; do [ "$(xenstore-read /local/domain/0/backend/vbd/$id/$disk/state)" = 4 ]; done
in_guest g1 30 'random_data xvdb 4'
same_data $good 4 g1 xvdb
guest_off g1
back_to_mark

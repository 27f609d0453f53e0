# A driver domain ends under a guest and lives again under the same id (`xl save -D`, `xl restore`): its service was stopped in order,
# dom0 writes the backend's nodes and the permissions again that went with the domain, and an unmodified guest goes on with the disk it
# has mounted: it sees a backend that answers late.
# shows: Linux 6.1 blkfront: driver domain destroyed and made again under the same id
# needs: ringfence
# set: all
# seconds: 300
export LIBXL_DOMID_REUSE_TIMEOUT=0
disk_image unused.img 1
config=driver_domain=1 extra=noblkfront guest A
in_guest A 20 'modprobe brd rd_nr=1 rd_size=32768; modprobe xen-gntdev; modprobe xen-privcmd'
in_guest A 40 serve_disks
guest B 'backend=A,vdev=xvda,access=rw,format=raw,target=/dev/ram0'
in_guest B 60 'fs_make xvda && fs_mount xvda && fio_verify /mnt/file 4 && sync && (cd /mnt && sha256sum file >/tmp/sum)'
old=$(xl domid A) user=$(xl domid B)
back=/local/domain/$old/backend front=/local/domain/$user/device/vbd/51712
in_guest A 30 'kill -TERM $(cat /tmp/service); n=0; while [ -e /proc/$(cat /tmp/service) ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; usleep 100000; done; tail -3 /tmp/log'
# What the guest asks for meanwhile waits on its ring.
in_guest B 20 '(cat /mnt/file | sha256sum; dd if=/dev/xvda of=/dev/null bs=64k count=16 iflag=direct; echo $? >/tmp/answered) >/dev/null 2>&1 & usleep 2000000; [ ! -e /tmp/answered ]'
xenstore-ls -f $back >/tmp/nodes
xl save -D A /images/A.save
no_node $back/vbd/$user/51712
[ "$(xenstore-read $front/state)" = 4 ]
# libxl compares ages in whole seconds: with LIBXL_DOMID_REUSE_TIMEOUT=0 an id is free again when one has passed.
sleep 2
xl restore /images/A.save
[ "$(xl domid A)" = $old ]
sed 's/ = "/\n/; s/"$//' /tmp/nodes | while read -r path && read -r value; do xenstore-write $path "$value"; done
xenstore-chmod -r $back n$old r$user
xenstore-chmod -r $front n$user r$old
xenstore-ls -f -p $back/vbd
in_guest A 60 serve_disks
in_guest B 60 'n=0; until [ -e /tmp/answered ]; do n=$((n+1)); [ $n -lt 300 ] || { dmesg | tail -5; exit 1; }; usleep 100000; done; [ $(cat /tmp/answered) = 0 ]'
in_guest B 60 '(cd /mnt && sha256sum -c /tmp/sum) && fio_verify /mnt/file2 8 && umount /mnt && fs_check xvda'
in_guest A 10 'cat /tmp/log'
guest_off B
guest_off A

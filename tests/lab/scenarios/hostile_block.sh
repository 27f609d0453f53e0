# A frontend in user space of a guest attacks our backend in dom0; another guest's disk, and that of a Linux guest, go on.
# shows: Hostile frontend: rings, grants, ports and nodes against our backend in dom0
# needs: ringfence
# seconds: 500
ringfence_backend
linux=$(disk_image linux.img 32)
guest linux "$(disk $linux xvda)"
work=$(start_in linux 'for n in 1 2 3 4 5 6 7 8; do fio_verify /dev/xvda 16 --offset=1M || exit 1; done; random_data xvda 1')
for name in attacker bystander; do
  image=$(disk_image $name.img 8)
  extra=noblkfront guest $name "$(disk $image xvda)"
  start_in $name 'modprobe xen-gntdev; modprobe xen-gntalloc; exec lab-peer agent' >/dev/null
done
lab-peer block $(xl domid attacker) $(xl domid bystander)
kill -0 $backend
wait_in linux $work 200
same_data $linux 1 linux xvda

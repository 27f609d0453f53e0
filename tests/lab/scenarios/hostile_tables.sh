# A domain attacks the grant tables and event channels of another: pages given up while they are mapped, neighbours of
# pages, references, domains and ports that are none; between guests, and between a guest and dom0.
# shows: Xen 4.17: hostile domains against grants and event channels
# needs: ringfence
# seconds: 600
modprobe xen-gntdev; modprobe xen-gntalloc
lab-peer agent >/dev/null &
# All three start at the same time.
for name in a b c; do
  extra=noblkfront guest_config $name >/tmp/$name.cfg
  xl create -q /tmp/$name.cfg
done
peers=
for name in a b c; do
  guest_ready $name 120
  start_in $name 'modprobe xen-gntdev; modprobe xen-gntalloc; exec lab-peer agent' >/dev/null
  peers="$peers $(xl domid $name)"
done
set -- $peers
# dom0 as the peer of a guest, and a guest as the peer of dom0.
lab-peer tables $1 0 $3 --keep
lab-peer tables 0 $2 $3 --keep
lab-peer tables $1 $2 $3

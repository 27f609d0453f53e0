# The numbered contracts of the platforms between three domains: grants, event channels, the store, the death of
# processes and domains.
# shows: Xen 4.17: the platforms' contracts between three Linux domains
# needs: ringfence
# seconds: 600
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
modprobe xen-gntdev; modprobe xen-gntalloc
lab-peer conformance $peers

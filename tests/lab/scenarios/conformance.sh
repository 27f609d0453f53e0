# The numbered contracts of the platforms between three domains: grants, event channels, the store, the death of
# processes and domains.
# shows: Xen 4.17: the platforms' contracts between three Linux domains
# seconds: 400
peers=
for name in a b c; do
  memory=128 extra=noblkfront guest $name
  start_in $name 'modprobe xen-gntdev; modprobe xen-gntalloc; exec lab-peer agent' >/dev/null
  peers="$peers $(xl domid $name)"
done
modprobe xen-gntdev; modprobe xen-gntalloc
lab-peer conformance $peers

# Instructions per request through our backend. For `cargo xtask bench lab`.
# set: all
# boot: cost
# seconds: 500
# cpus: 1
# thread: single
# qemu: -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm
# xen: dom0_max_vcpus=1
# needs: ringfence
. /lab/cost.sh
cost_disk
ringfence_backend
cost_guest "$(disk /dev/ram1 xvdb)"
cost ringfence $(pidof ringfence)
cost_guest_off
kill -TERM $backend
wait $backend
echo "COST ringfence $(grep '"served"' /run/ringfence.log)"

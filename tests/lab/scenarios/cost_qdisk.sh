# Instructions per request through QEMU's backend, which keeps the disk in dom0's page cache. For `cargo xtask bench lab`.
# set: all
# boot: cost
# seconds: 500
# cpus: 1
# thread: single
# qemu: -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm
# xen: dom0_max_vcpus=1
# needs: ringfence, qdisk
. /lab/cost.sh
. /lab/qdisk.sh
cost_disk
cost_guest "$(qdisk /dev/ram1 xvdb)"
cost qdisk $(pidof xen-qemu-system-i386)
cost_guest_off
device_model_left

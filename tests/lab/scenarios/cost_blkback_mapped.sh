# Linux's backend without persistent grants: it maps the pages of every request. For `cargo xtask bench lab`.
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
modprobe xen-blkback feature_persistent=0
cost_guest phy:/dev/ram1,xvdb,w
guest_log g1 | grep -q 'blkfront: xvdb:.*persistent grants: disabled'
cost xen-blkback-mapped $(kernel_threads "*.xvdb-*")

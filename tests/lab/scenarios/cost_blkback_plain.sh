# Linux's backend with no more than QEMU's has: neither persistent grants nor indirect segments. For `cargo xtask bench lab`.
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
cost_guest phy:/dev/ram1,xvdb,w xen_blkfront.max_indirect_segments=0
guest_log g1 | grep -q 'blkfront: xvdb:.*persistent grants: disabled; indirect descriptors: disabled'
cost xen-blkback-plain $(kernel_threads "*.xvdb-*")

# Instructions per request through QEMU's backend, with direct I/O as ours has. For `cargo xtask bench lab`.
# set: all
# boot: cost
# seconds: 500
# cpus: 1
# thread: single
# qemu: -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm
# xen: dom0_max_vcpus=1
# needs: ringfence, qdisk
. /lab/cost.sh
cost_disk
cost_guest format=raw,vdev=xvdb,access=rw,backendtype=qdisk,direct-io-safe,target=/dev/ram1
cost qdisk $(pidof xen-qemu-system-i386)

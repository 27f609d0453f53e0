# Functions for scenarios with QEMU's disk backend.

# qdisk IMAGE VDEV: a disk in xl's words. Without direct-io-safe: Debian's QEMU for Xen has neither of the two asynchronous
# interfaces that it wants for direct I/O, so it would leave the disk in state 1.
qdisk() { echo "format=raw,vdev=$2,access=rw,backendtype=qdisk,target=$1"; }

# device_model_left: libxl removes what it wrote about a device model, and leaves the folder of all of them
device_model_left() {
  [ -z "$(xenstore-list /local/domain/0/device-model)" ] || fail "a device model is left"
  xenstore-rm /local/domain/0/device-model
}

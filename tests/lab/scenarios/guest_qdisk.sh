# A guest kernel of ours, without an operating system, against QEMU's backend.
# shows: QEMU 7.2 qdisk: our guest kernel, PV
# needs: qdisk, guest-image
# seconds: 120
. /lab/qdisk.sh
image_disks
image_guest pv "$(qdisk $files xvda)" "$(qdisk $scratch xvdb)"
image_passes pv 51712 51728
device_model_left

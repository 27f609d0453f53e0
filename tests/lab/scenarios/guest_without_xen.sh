# Our kernels in a machine without Xen: they say so on the serial port, and switch it off. There is no dom0 to do anything.
# shows: QEMU 7.2 without Xen: our guest kernel says what is missing and switches off
# needs: guest-image, your-kernel
# boot: without-xen

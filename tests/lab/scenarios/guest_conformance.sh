# The platforms' contracts with guest kernels of ours as the domains: first one of them with a Linux process of dom0 as its peer,
# which dies, then all of it between three of them. There is no process in such a guest that could die before it does.
# shows: Xen 4.17: the platforms' contracts between guest kernels of ours, PV
# needs: ringfence, agent-image
# seconds: 120
type=pv
. /lab/conformance_image.sh

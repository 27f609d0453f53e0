/*
 * The C macros of xen/io/ring.h as a peer for the differential test and the bench: a ring of blkif's sizes, whose requests
 * and responses are known here by their id, operation and status only.
 */
#include <stdint.h>
#include <stddef.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define xen_wmb() __asm__ volatile("" ::: "memory")
#define xen_rmb() __asm__ volatile("" ::: "memory")
#else
#define xen_wmb() __sync_synchronize()
#define xen_rmb() __sync_synchronize()
#endif
#define xen_mb() __sync_synchronize()

#define XEN_RING_HAS_UNCONSUMED_IS_BOOL
#include <xen/io/ring.h>

struct peer_request {
    uint64_t words[14];
};

struct peer_response {
    uint64_t id;
    uint8_t operation;
    int16_t status;
};

DEFINE_RING_TYPES(peer, struct peer_request, struct peer_response);

void peer_front_init(peer_front_ring_t *r, void *pages, uint32_t bytes)
{
    XEN_FRONT_RING_INIT(r, (peer_sring_t *)pages, bytes);
}

void peer_front_attach(peer_front_ring_t *r, void *pages, uint32_t index, uint32_t bytes)
{
    FRONT_RING_ATTACH(r, (peer_sring_t *)pages, index, bytes);
}

int peer_front_push(peer_front_ring_t *r, const struct peer_request *request)
{
    if (RING_FULL(r))
        return 0;
    *RING_GET_REQUEST(r, r->req_prod_pvt) = *request;
    r->req_prod_pvt++;
    return 1;
}

int peer_front_publish(peer_front_ring_t *r)
{
    int notify;

    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(r, notify);
    return notify;
}

int peer_front_take(peer_front_ring_t *r, struct peer_response *response)
{
    if (!RING_HAS_UNCONSUMED_RESPONSES(r))
        return 0;
    xen_rmb();
    RING_COPY_RESPONSE(r, r->rsp_cons, response);
    r->rsp_cons++;
    return 1;
}

int peer_front_arm(peer_front_ring_t *r)
{
    int work;

    RING_FINAL_CHECK_FOR_RESPONSES(r, work);
    return work;
}

void peer_back_attach(peer_back_ring_t *r, void *pages, uint32_t index, uint32_t bytes)
{
    BACK_RING_ATTACH(r, (peer_sring_t *)pages, index, bytes);
}

int peer_back_take(peer_back_ring_t *r, struct peer_request *request)
{
    if (!RING_HAS_UNCONSUMED_REQUESTS(r))
        return 0;
    xen_rmb();
    RING_COPY_REQUEST(r, r->req_cons, request);
    r->req_cons++;
    return 1;
}

void peer_back_respond(peer_back_ring_t *r, uint64_t id, uint8_t operation, int16_t status)
{
    struct peer_response *response = RING_GET_RESPONSE(r, r->rsp_prod_pvt);

    response->id = id;
    response->operation = operation;
    response->status = status;
    r->rsp_prod_pvt++;
}

int peer_back_publish(peer_back_ring_t *r)
{
    int notify;

    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(r, notify);
    return notify;
}

int peer_back_arm(peer_back_ring_t *r)
{
    int work;

    RING_FINAL_CHECK_FOR_REQUESTS(r, work);
    return work;
}

/*
 * The C macros' two ends, as plainly as a driver writes them. The loops are those of src/ours.rs, step for step.
 */
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#define xen_wmb() __asm__ volatile("" ::: "memory")
#define xen_rmb() __asm__ volatile("" ::: "memory")
/* As Linux has it: smp_mb() on x86. */
#define xen_mb() __asm__ volatile("lock; addl $0,-4(%%rsp)" ::: "memory", "cc")
#define relax() __builtin_ia32_pause()
#else
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_mb() __sync_synchronize()
#define relax() __asm__ volatile("" ::: "memory")
#endif

#define XEN_RING_HAS_UNCONSUMED_IS_BOOL
#include <xen/io/ring.h>

#define WORDS 14

struct bench_request {
    uint64_t words[WORDS];
};

struct bench_response {
    uint64_t id;
    uint8_t operation;
    int16_t status;
};

DEFINE_RING_TYPES(bench, struct bench_request, struct bench_response);

static void kick(int fd)
{
    uint64_t one = 1;

    if (write(fd, &one, sizeof(one)) != sizeof(one))
        _exit(3);
}

static void wait_for(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) != sizeof(count))
        _exit(3);
}

/* Sends `count` requests in batches and waits for the answers of each; returns what all answers add up to. */
uint64_t c_front(void *pages, uint32_t bytes, uint64_t count, uint32_t batch, int spin, int to_peer, int from_peer)
{
    bench_front_ring_t ring;
    bench_sring_t *sring = pages;
    struct bench_request request;
    struct bench_response response;
    uint64_t id = 0, sum = 0;
    int notify, work;

    FRONT_RING_INIT(&ring, sring, bytes);
    for (int word = 0; word < WORDS; word++)
        request.words[word] = word;
    while (id < count) {
        uint32_t outstanding = batch;

        for (uint32_t n = 0; n < batch; n++) {
            if (RING_FULL(&ring))
                _exit(4);
            request.words[1] = id++;
            *RING_GET_REQUEST(&ring, ring.req_prod_pvt) = request;
            ring.req_prod_pvt++;
        }
        RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&ring, notify);
        if (notify && !spin)
            kick(to_peer);
        for (;;) {
            RING_IDX cons, prod = *(volatile RING_IDX *)&sring->rsp_prod;

            xen_rmb();
            if (RING_RESPONSE_PROD_OVERFLOW(&ring, prod))
                _exit(5);
            for (cons = ring.rsp_cons; cons != prod; cons++) {
                RING_COPY_RESPONSE(&ring, cons, &response);
                sum += response.id + response.operation + response.status;
                outstanding--;
            }
            ring.rsp_cons = cons;
            if (outstanding == 0)
                break;
            if (spin) {
                relax();
                continue;
            }
            RING_FINAL_CHECK_FOR_RESPONSES(&ring, work);
            if (!work)
                wait_for(from_peer);
        }
    }
    return sum;
}

/* Answers `count` requests. */
void c_back(void *pages, uint32_t bytes, uint64_t count, int spin, int to_peer, int from_peer)
{
    bench_back_ring_t ring;
    bench_sring_t *sring = pages;
    struct bench_request request;
    uint64_t done = 0;
    int notify, work;

    BACK_RING_INIT(&ring, sring, bytes);
    kick(to_peer);
    while (done < count) {
        RING_IDX cons, prod = *(volatile RING_IDX *)&sring->req_prod;

        xen_rmb();
        if (RING_REQUEST_PROD_OVERFLOW(&ring, prod))
            _exit(5);
        cons = ring.req_cons;
        if (cons == prod) {
            if (spin) {
                relax();
                continue;
            }
            RING_FINAL_CHECK_FOR_REQUESTS(&ring, work);
            if (!work)
                wait_for(from_peer);
            continue;
        }
        while (cons != prod) {
            struct bench_response *response;
            uint64_t sum = 0;

            RING_COPY_REQUEST(&ring, cons, &request);
            ring.req_cons = ++cons;
            for (int word = 0; word < WORDS; word++)
                sum += request.words[word];
            response = RING_GET_RESPONSE(&ring, ring.rsp_prod_pvt);
            response->id = sum;
            response->operation = 1;
            response->status = -1;
            ring.rsp_prod_pvt++;
            done++;
        }
        RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&ring, notify);
        if (notify && !spin)
            kick(to_peer);
    }
}

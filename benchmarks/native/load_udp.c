/* Load a datagram echo server: sequence-checked slots for each socket, loss counted after a bounded wait. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h */
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { MOST_BATCH = 64, MOST_DATAGRAM_BYTES = 65507, REMEMBERED = 256 };

struct header {
    uint32_t socket, slot;
    uint64_t sequence;
};

struct slot {
    uint64_t sequence, issued_at;
    bool open;
};

/* `lost` remembers the last sequences given up, so that a late reply is told from one that was never asked for. */
struct socket_state {
    int fd, open_slots;
    uint64_t next_sequence, highest_back, lost_count;
    uint64_t lost[REMEMBERED];
    struct slot *slots;
};

static struct socket_state *sockets;
static unsigned char *outgoing, *incoming, expected[MOST_DATAGRAM_BYTES];
static int batch;

static void write_datagram(int number, int slot, uint64_t sequence, unsigned char *out)
{
    struct header head = {.socket = (uint32_t)number, .slot = (uint32_t)slot, .sequence = sequence};
    memcpy(out, &head, sizeof head);
    pattern((uint64_t)number * 7919u + sequence * 131u, out + sizeof head, options.size - sizeof head);
}

static void send_batch(struct socket_state *one, int count)
{
    struct mmsghdr messages[MOST_BATCH] = {0};
    struct iovec parts[MOST_BATCH];
    char control[CMSG_SPACE(sizeof(uint16_t))] __attribute__((aligned(8))) = {0};
    if (options.train) {
        struct iovec whole = {.iov_base = outgoing, .iov_len = options.size * (size_t)count};
        struct msghdr train = {.msg_iov = &whole, .msg_iovlen = 1};
        uint16_t segment = (uint16_t)options.size;
        train.msg_control = control;
        train.msg_controllen = sizeof control;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&train);
        cmsg->cmsg_level = IPPROTO_UDP;
        cmsg->cmsg_type = UDP_SEGMENT;
        cmsg->cmsg_len = CMSG_LEN(sizeof segment);
        memcpy(CMSG_DATA(cmsg), &segment, sizeof segment);
        if (sendmsg(one->fd, &train, 0) < 0 && errno != EAGAIN && errno != ENOBUFS)
            fail("sendmsg: %s", strerror(errno));
        return;
    }
    for (int index = 0; index < count; index++) {
        parts[index] = (struct iovec){.iov_base = outgoing + options.size * (size_t)index, .iov_len = options.size};
        messages[index].msg_hdr = (struct msghdr){.msg_iov = &parts[index], .msg_iovlen = 1};
    }
    /* What the kernel refuses for want of room is noticed as lost and sent anew. */
    if (sendmmsg(one->fd, messages, (unsigned)count, 0) < 0 && errno != EAGAIN && errno != ENOBUFS)
        fail("sendmmsg: %s", strerror(errno));
}

/* Fill every free slot and send; a train leaves only when all its slots are free. */
static void issue(struct socket_state *one)
{
    int count = 0;
    if (run.stopping || (options.train && one->open_slots > 0))
        return;
    for (int slot = 0; slot < options.depth; slot++) {
        if (one->slots[slot].open)
            continue;
        one->slots[slot] = (struct slot){.sequence = one->next_sequence++, .issued_at = run.now, .open = true};
        one->open_slots++;
        write_datagram((int)(one - sockets), slot, one->slots[slot].sequence, outgoing + options.size * (size_t)count);
        if (++count == batch) {
            send_batch(one, count);
            count = 0;
        }
    }
    if (count > 0)
        send_batch(one, count);
}

static void take_datagram(struct socket_state *one, const unsigned char *data, size_t bytes)
{
    int number = (int)(one - sockets);
    struct header head;
    if (bytes != options.size)
        fail("socket %d: a datagram of %zu bytes came back instead of %zu", number, bytes, options.size);
    memcpy(&head, data, sizeof head);
    if (head.socket != (uint32_t)number || head.slot >= (uint32_t)options.depth)
        fail("socket %d: a datagram of socket %u, slot %u came back", number, head.socket, head.slot);
    write_datagram(number, (int)head.slot, head.sequence, expected);
    if (memcmp(data, expected, bytes) != 0)
        fail("socket %d: datagram %llu is corrupt", number, (unsigned long long)head.sequence);
    struct slot *slot = &one->slots[head.slot];
    if (!slot->open || slot->sequence != head.sequence) {
        for (int index = 0; index < REMEMBERED; index++)
            if (one->lost[index] == head.sequence) {
                one->lost[index] = UINT64_MAX;
                run.late++;
                return;
            }
        fail("socket %d: datagram %llu came twice or was never sent", number, (unsigned long long)head.sequence);
    }
    if (head.sequence < one->highest_back)
        run.reordered++;
    else
        one->highest_back = head.sequence;
    slot->open = false;
    one->open_slots--;
    answered(slot->issued_at, bytes);
}

static size_t segment_bytes(struct msghdr *message, size_t whole)
{
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(message); cmsg != NULL; cmsg = CMSG_NXTHDR(message, cmsg))
        if (cmsg->cmsg_level == IPPROTO_UDP && cmsg->cmsg_type == UDP_GRO) {
            int segment;
            memcpy(&segment, CMSG_DATA(cmsg), sizeof segment);
            return (size_t)segment;
        }
    return whole;
}

static void on_readable(struct socket_state *one)
{
    static struct mmsghdr messages[MOST_BATCH];
    static struct iovec parts[MOST_BATCH];
    static char control[MOST_BATCH][CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
    for (int index = 0; index < batch; index++) {
        parts[index].iov_base = incoming + (size_t)index * 65536;
        parts[index].iov_len = 65536;
        messages[index].msg_hdr = (struct msghdr){.msg_iov = &parts[index], .msg_iovlen = 1};
        if (options.train) {
            messages[index].msg_hdr.msg_control = control[index];
            messages[index].msg_hdr.msg_controllen = sizeof control[index];
        }
    }
    int got = recvmmsg(one->fd, messages, (unsigned)batch, MSG_DONTWAIT, NULL);
    if (got < 0 && errno != EAGAIN)
        fail("recvmmsg: %s", strerror(errno));
    for (int index = 0; index < got; index++) {
        size_t whole = messages[index].msg_len, step = segment_bytes(&messages[index].msg_hdr, whole);
        if (whole == 0)
            fail("socket %d: an empty datagram came back", (int)(one - sockets));
        for (size_t at = 0; at < whole; at += step)
            take_datagram(one, (unsigned char *)parts[index].iov_base + at, whole - at < step ? whole - at : step);
    }
    issue(one);
}

static int give_up_overdue(struct socket_state *one)
{
    uint64_t patience = (uint64_t)(options.lost_after_seconds * 1e9);
    for (int index = 0; index < options.depth; index++) {
        struct slot *slot = &one->slots[index];
        if (!slot->open || run.now < slot->issued_at + patience)
            continue;
        slot->open = false;
        one->open_slots--;
        one->lost[one->lost_count++ % REMEMBERED] = slot->sequence;
        run.lost += run.measuring;
    }
    issue(one);
    return one->open_slots;
}

static void open_socket(struct socket_state *one, int epoll)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)options.port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    int yes = 1;
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1)
        fail("%s is not an IPv4 address", options.host);
    one->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    one->slots = calloc((size_t)options.depth, sizeof *one->slots);
    memset(one->lost, 0xFF, sizeof one->lost);
    if (one->fd < 0 || one->slots == NULL || connect(one->fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("socket: %s", strerror(errno));
    if (options.train && setsockopt(one->fd, IPPROTO_UDP, UDP_GRO, &yes, sizeof yes) != 0)
        fail("this kernel has no UDP_GRO: %s", strerror(errno));
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, one->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

void load_udp(void)
{
    struct epoll_event events[MOST_EVENTS];
    int epoll = epoll_create1(EPOLL_CLOEXEC), waiting = 1;
    batch = options.depth < MOST_BATCH ? options.depth : MOST_BATCH;
    sockets = calloc((size_t)options.connections, sizeof *sockets);
    outgoing = malloc(options.size * (size_t)batch);
    incoming = malloc((size_t)batch * 65536);
    if (epoll < 0 || sockets == NULL || outgoing == NULL || incoming == NULL)
        fail("no epoll or no memory");
    if (options.size < sizeof(struct header) || options.size > MOST_DATAGRAM_BYTES)
        fail("--udp needs --size 16 to 65507");
    if (options.train && (options.depth > MOST_BATCH || options.size * (size_t)options.depth > MOST_DATAGRAM_BYTES))
        fail("a train holds at most 64 datagrams and 65507 bytes");
    for (int number = 0; number < options.connections; number++)
        open_socket(&sockets[number], epoll);
    begin();
    uint64_t next_look = run.now;
    for (int number = 0; number < options.connections; number++)
        issue(&sockets[number]);
    while (waiting) {
        int count = epoll_wait(epoll, events, MOST_EVENTS, wait_milliseconds());
        if (count < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        tick();
        for (int index = 0; index < count; index++)
            on_readable(events[index].data.ptr);
        if (run.now < next_look)
            continue;
        next_look = run.now + 10000000u; /* 10 ms: a scan of every slot is too dear for each turn */
        waiting = !run.stopping;
        for (int number = 0; number < options.connections; number++)
            waiting |= give_up_overdue(&sockets[number]) > 0;
    }
    if (run.answered == 0)
        fail("no datagram came back in %.1f s", options.seconds);
}

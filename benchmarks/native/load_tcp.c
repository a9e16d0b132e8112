/* Load a stream echo server: one verified byte stream for each connection, driven by epoll. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Offsets count bytes from the connection's start: received <= sent <= due. */
struct connection {
    int fd, number;
    bool writing;
    uint64_t sent, due, received;
    uint64_t *issued_at; /* a ring of `depth` times */
};

static struct connection *connections;
static int epoll, unfinished;
static unsigned char scratch[SCRATCH_BYTES], expected[SCRATCH_BYTES];

/* Write what connection `number` sends at `offset`, and therefore what it must get back there. */
static void stream_of(int number, uint64_t offset, unsigned char *out, size_t bytes)
{
    uint64_t shift = (uint64_t)number * 7919u; /* a prime: no two of 65521 connections start alike */
    if (!options.lines) {
        pattern(shift + offset, out, bytes);
        return;
    }
    pattern_of_letters(shift + offset, out, bytes);
    for (size_t at = options.size - 1 - offset % options.size; at < bytes; at += options.size)
        out[at] = '\n';
}

static void watch(int operation, struct connection *one, unsigned events)
{
    struct epoll_event event = {.events = events, .data.ptr = one};
    if (epoll_ctl(epoll, operation, one->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* Connect from 127.1.0.1 to 127.1.3.232 in turn when reconnecting: one source address has only 28,000 ports, and each
 * stays in TIME_WAIT for a minute at the side that closed first, which is this one. */
static void open_connection(struct connection *one)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)options.port)};
    struct timeval patience = {.tv_sec = 5};
    int yes = 1;
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1)
        fail("%s is not an IPv4 address", options.host);
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (one->fd < 0)
        fail("socket: %s", strerror(errno));
    if (options.reconnect && ntohl(address.sin_addr.s_addr) >> 24 == 127) {
        unsigned turn = (unsigned)(run.connects % 1000);
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(0x7F010001u + (turn / 250 << 8) + turn % 250);
        setsockopt(one->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
        if (bind(one->fd, (struct sockaddr *)&source, sizeof source) != 0)
            fail("bind: %s", strerror(errno));
    }
    setsockopt(one->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* bounds the connect */
    if (connect(one->fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connection %d could not be made: %s", one->number, strerror(errno));
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
    one->sent = one->due = one->received = 0;
    one->writing = false;
    run.connects++;
    watch(EPOLL_CTL_ADD, one, EPOLLIN);
}

static void send_due(struct connection *one)
{
    while (one->sent < one->due) {
        size_t bytes = one->due - one->sent;
        if (bytes > SCRATCH_BYTES)
            bytes = SCRATCH_BYTES;
        stream_of(one->number, one->sent, scratch, bytes);
        ssize_t sent = send(one->fd, scratch, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            fail("connection %d: send: %s", one->number, strerror(errno));
        if (sent > 0)
            one->sent += (uint64_t)sent;
        if (sent < (ssize_t)bytes)
            break;
    }
    bool writing = one->sent < one->due;
    if (writing != one->writing)
        watch(EPOLL_CTL_MOD, one, writing ? EPOLLIN | EPOLLOUT : EPOLLIN);
    one->writing = writing;
}

static void issue(struct connection *one, int messages)
{
    for (int index = 0; index < messages; index++) {
        one->issued_at[one->due / options.size % (uint64_t)options.depth] = run.now;
        one->due += options.size;
    }
    send_due(one);
}

static void verify(struct connection *one, size_t got)
{
    if (one->received + got > one->sent)
        fail("connection %d: %llu bytes came back for %llu sent", one->number,
             (unsigned long long)(one->received + got), (unsigned long long)one->sent);
    stream_of(one->number, one->received, expected, got);
    if (memcmp(scratch, expected, got) == 0)
        return;
    size_t at = 0;
    while (scratch[at] == expected[at])
        at++;
    fail("connection %d: byte %llu is 0x%02x instead of 0x%02x", one->number,
         (unsigned long long)(one->received + at), scratch[at], expected[at]);
}

static void finish(struct connection *one)
{
    unfinished--;
    close(one->fd);
    one->fd = -1;
}

static void on_readable(struct connection *one)
{
    ssize_t got = recv(one->fd, scratch, SCRATCH_BYTES, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got < 0)
        fail("connection %d: recv: %s", one->number, strerror(errno));
    if (got == 0)
        fail("connection %d: closed by the server after %llu of %llu bytes", one->number,
             (unsigned long long)one->received, (unsigned long long)one->due);
    verify(one, (size_t)got);
    uint64_t first = one->received / options.size, last = (one->received + (uint64_t)got) / options.size;
    one->received += (uint64_t)got;
    for (uint64_t message = first; message < last; message++)
        answered(one->issued_at[message % (uint64_t)options.depth], options.size);
    if (run.stopping) {
        if (one->received == one->due)
            finish(one);
    } else if (last > first && options.reconnect) {
        close(one->fd);
        open_connection(one);
        issue(one, 1);
    } else if (last > first) {
        issue(one, (int)(last - first));
    }
}

void load_tcp(void)
{
    struct epoll_event events[MOST_EVENTS];
    epoll = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)options.connections, sizeof *connections);
    if (epoll < 0 || connections == NULL)
        fail("no epoll or no memory");
    unfinished = options.connections;
    for (int number = 0; number < options.connections; number++) {
        connections[number].number = number;
        connections[number].issued_at = calloc((size_t)options.depth, sizeof(uint64_t));
        if (connections[number].issued_at == NULL)
            fail("no memory");
        open_connection(&connections[number]);
    }
    begin();
    for (int number = 0; number < options.connections; number++)
        issue(&connections[number], options.depth);
    while (unfinished > 0) {
        int count = epoll_wait(epoll, events, MOST_EVENTS, wait_milliseconds());
        if (count < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        tick();
        for (int index = 0; index < count; index++) {
            struct connection *one = events[index].data.ptr;
            if (events[index].events & EPOLLOUT)
                send_due(one);
            if (events[index].events & ~(unsigned)EPOLLOUT)
                on_readable(one);
        }
        if (run.stopping && run.now > run.give_up_at) {
            for (int number = 0; number < options.connections; number++)
                if (connections[number].fd >= 0)
                    fail("connection %d: %llu of %llu bytes never came back", number,
                         (unsigned long long)(connections[number].due - connections[number].received),
                         (unsigned long long)connections[number].due);
        }
    }
}

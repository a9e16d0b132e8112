/* Echo TCP with one epoll loop: the limit that every other server is compared with.
 *
 * usage: echo_tcp PORT
 * One recv and one send for each readiness, level-triggered. What a full socket does not take is kept, and the
 * connection is not read until it has gone, so that 1 MiB messages echo intact.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER_BYTES = 65536, MOST_EVENTS = 256, MOST_FDS = 65536 };

struct pending {
    char *data;
    size_t start, end;
};

static struct pending pending[MOST_FDS];
static char buffer[BUFFER_BYTES];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int epoll, int operation, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, operation, fd, &event) != 0)
        fail("epoll_ctl");
}

static void drop(int fd)
{
    free(pending[fd].data);
    pending[fd] = (struct pending){0};
    close(fd);
}

static void accept_all(int epoll, int listener)
{
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MOST_FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
}

static void flush(int epoll, int fd)
{
    struct pending *rest = &pending[fd];
    ssize_t sent = send(fd, rest->data + rest->start, rest->end - rest->start, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            drop(fd);
        return;
    }
    rest->start += (size_t)sent;
    if (rest->start < rest->end)
        return;
    free(rest->data);
    *rest = (struct pending){0};
    watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void echo(int epoll, int fd)
{
    ssize_t got = recv(fd, buffer, sizeof buffer, 0), sent;
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(fd);
        return;
    }
    sent = send(fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent == got)
        return;
    if (sent < 0) {
        if (errno != EAGAIN) {
            drop(fd);
            return;
        }
        sent = 0;
    }
    struct pending *rest = &pending[fd];
    rest->start = 0;
    rest->end = (size_t)(got - sent);
    rest->data = malloc(rest->end);
    if (rest->data == NULL)
        fail("malloc");
    memcpy(rest->data, buffer + sent, rest->end);
    watch(epoll, EPOLL_CTL_MOD, fd, EPOLLOUT);
}

int main(int argc, char **argv)
{
    if (argc != 2 || atoi(argv[1]) < 1 || atoi(argv[1]) > 65535) {
        fprintf(stderr, "usage: echo_tcp PORT\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (listener < 0 || epoll < 0)
        fail("socket");
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0)
        fail("bind");
    if (listen(listener, 4096) != 0)
        fail("listen");
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN);
    struct epoll_event events[MOST_EVENTS];
    for (;;) {
        int count = epoll_wait(epoll, events, MOST_EVENTS, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int index = 0; index < count; index++) {
            int fd = events[index].data.fd;
            if (fd == listener)
                accept_all(epoll, listener);
            else if (pending[fd].data != NULL)
                flush(epoll, fd);
            else
                echo(epoll, fd);
        }
    }
}

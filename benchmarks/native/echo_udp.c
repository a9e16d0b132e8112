/* Echo UDP from one socket: one datagram a call, batches of 64 with --batch, or whole trains with --trains.
 *
 * usage: echo_udp [--batch | --trains] PORT
 * Without --batch it is recvfrom and sendto, the limit for a server that handles datagrams one by one; with it
 * recvmmsg and sendmmsg share the price of a system call, and with --trains the kernel hands over and takes many
 * datagrams of one peer and size as one buffer (UDP_GRO, UDP_SEGMENT).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h */
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { MOST_DATAGRAM_BYTES = 65536, BATCH = 64, SOCKET_BUFFER_BYTES = 4194304 };

static char buffers[BATCH][MOST_DATAGRAM_BYTES];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void echo_singly(int fd)
{
    struct sockaddr_storage peer;
    for (;;) {
        socklen_t peer_bytes = sizeof peer;
        ssize_t got = recvfrom(fd, buffers[0], MOST_DATAGRAM_BYTES, 0, (struct sockaddr *)&peer, &peer_bytes);
        if (got >= 0)
            /* A reply that can't be sent is a lost datagram: the generator counts those. */
            (void)sendto(fd, buffers[0], (size_t)got, 0, (struct sockaddr *)&peer, peer_bytes);
        else if (errno != EINTR && errno != ECONNREFUSED)
            fail("recvfrom");
    }
}

static void echo_in_batches(int fd)
{
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    static struct sockaddr_storage peers[BATCH];
    for (;;) {
        for (int index = 0; index < BATCH; index++) {
            parts[index] = (struct iovec){.iov_base = buffers[index], .iov_len = MOST_DATAGRAM_BYTES};
            messages[index].msg_hdr = (struct msghdr){
                .msg_name = &peers[index],
                .msg_namelen = sizeof peers[index],
                .msg_iov = &parts[index],
                .msg_iovlen = 1,
            };
        }
        int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (got < 0 && errno != EINTR && errno != ECONNREFUSED)
            fail("recvmmsg");
        for (int index = 0; index < got; index++)
            parts[index].iov_len = messages[index].msg_len;
        for (int sent = 0; sent < got;) {
            int more = sendmmsg(fd, messages + sent, (unsigned)(got - sent), 0);
            sent += more > 0 ? more : 1; /* the one that failed is lost */
        }
    }
}

static void echo_trains(int fd)
{
    char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
    struct sockaddr_storage peer;
    int yes = 1;
    if (setsockopt(fd, IPPROTO_UDP, UDP_GRO, &yes, sizeof yes) != 0)
        fail("UDP_GRO");
    for (;;) {
        struct iovec part = {.iov_base = buffers[0], .iov_len = MOST_DATAGRAM_BYTES};
        struct msghdr message = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &part, .msg_iovlen = 1};
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        ssize_t got = recvmsg(fd, &message, 0);
        if (got < 0 && errno != EINTR && errno != ECONNREFUSED)
            fail("recvmsg");
        if (got < 0)
            continue;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        part.iov_len = (size_t)got;
        if (head != NULL && head->cmsg_level == IPPROTO_UDP && head->cmsg_type == UDP_GRO) {
            int bytes;
            memcpy(&bytes, CMSG_DATA(head), sizeof bytes);
            uint16_t segment = (uint16_t)bytes;
            head->cmsg_type = UDP_SEGMENT;
            head->cmsg_len = CMSG_LEN(sizeof segment);
            message.msg_controllen = CMSG_SPACE(sizeof segment);
            memcpy(CMSG_DATA(head), &segment, sizeof segment);
        } else {
            message.msg_controllen = 0;
        }
        (void)sendmsg(fd, &message, 0);
    }
}

int main(int argc, char **argv)
{
    int batch = argc == 3 && strcmp(argv[1], "--batch") == 0;
    int trains = argc == 3 && strcmp(argv[1], "--trains") == 0;
    if (argc != 2 + batch + trains || atoi(argv[argc - 1]) < 1 || atoi(argv[argc - 1]) > 65535) {
        fprintf(stderr, "usage: echo_udp [--batch | --trains] PORT\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[argc - 1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = SOCKET_BUFFER_BYTES;
    if (fd < 0)
        fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("bind");
    if (batch)
        echo_in_batches(fd);
    else if (trains)
        echo_trains(fd);
    else
        echo_singly(fd);
}

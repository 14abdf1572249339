/* GETs of one key on one blocking socket: send, recv, nothing else.
 *
 * cloop ADDRESS PORT KEY VALUE_BYTES SECONDS prints {"ops": .., "elapsed_s": .., "ops_per_s": ..}.
 *
 * This is the least a client can take for a command: two system calls and the way to the
 * server and back. The reply is not parsed, but its length is known and its head checked. */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER_BYTES = 65536, WARM_UP = 1000, GETS_PER_LOOK = 64 };

typedef struct {
    char bytes[BUFFER_BYTES];
    size_t size;
} text;

static _Noreturn void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static double
now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int
dial(const char *address, int port)
{
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (fd < 0 || inet_pton(AF_INET, address, &peer.sin_addr) != 1)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&peer, sizeof peer) != 0)
        fail("connect");
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        fail("setsockopt");
    return fd;
}

static void
get(int fd, const text *command, const text *head, size_t reply_bytes)
{
    static char reply[BUFFER_BYTES];
    size_t size = 0;
    if (send(fd, command->bytes, command->size, 0) != (ssize_t)command->size)
        fail("send");
    while (size < reply_bytes) {
        ssize_t got = recv(fd, reply + size, sizeof reply - size, 0);
        if (got <= 0)
            fail("recv");
        size += (size_t)got;
    }
    if (size != reply_bytes || memcmp(reply, head->bytes, head->size) != 0) {
        fprintf(stderr, "an unexpected reply: %.*s\n", (int)size, reply);
        exit(1);
    }
}

int
main(int argc, char **argv)
{
    static text command, head;
    double start_s, end_s, limit_s;
    long ops = 0;
    int fd;
    size_t reply_bytes;

    if (argc != 6 || strlen(argv[3]) > 1000 || strtoul(argv[4], NULL, 10) > BUFFER_BYTES / 2) {
        fprintf(stderr, "usage: cloop ADDRESS PORT KEY VALUE_BYTES SECONDS\n");
        return 2;
    }
    command.size = (size_t)snprintf(command.bytes, sizeof command.bytes,
        "*2\r\n$3\r\nGET\r\n$%zu\r\n%s\r\n", strlen(argv[3]), argv[3]);
    head.size = (size_t)snprintf(head.bytes, sizeof head.bytes, "$%s\r\n", argv[4]);
    reply_bytes = head.size + strtoul(argv[4], NULL, 10) + 2;
    limit_s = strtod(argv[5], NULL);

    fd = dial(argv[1], atoi(argv[2]));
    for (int i = 0; i < WARM_UP; i++)
        get(fd, &command, &head, reply_bytes);
    start_s = end_s = now_s();
    while (end_s - start_s < limit_s) {
        for (int i = 0; i < GETS_PER_LOOK; i++)
            get(fd, &command, &head, reply_bytes);
        ops += GETS_PER_LOOK;
        end_s = now_s();
    }
    close(fd);
    printf("{\"ops\": %ld, \"elapsed_s\": %f, \"ops_per_s\": %f}\n", ops, end_s - start_s,
        (double)ops / (end_s - start_s));
    return 0;
}

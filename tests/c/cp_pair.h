/* A wire under test on one end of a socket pair, the peer on the other. */
#ifndef CP_PAIR_H
#define CP_PAIR_H

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cp_faults.h"
#include "cp_wire.h"

#define MINUTE (60 * CP_NS_PER_S)

typedef struct pair {
    cp_wire wire;
    int peer;
} pair;

static inline pair
pair_open(int64_t idle_ns)
{
    pair p;
    int fd[2];
    fault_clear();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) != 0)
        abort();
    cp_wire_open(&p.wire, fd[0], idle_ns);
    p.peer = fd[1];
    return p;
}

static inline void
pair_close(pair *p)
{
    close(p->wire.fd);
    close(p->peer);
    fault_clear();
}

/* Fill the socket's buffer, so that the next send would block. */
static inline void
pair_fill(const pair *p)
{
    static const char block[4096];
    while (send(p->wire.fd, block, sizeof block, MSG_DONTWAIT) > 0)
        ;
    while (send(p->wire.fd, block, 1, MSG_DONTWAIT) > 0)
        ;
    fault_clear();
}

#endif

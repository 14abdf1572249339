/* One connected stream socket by its file descriptor. Layer 2; knows no RESP.
 *
 * The descriptor belongs to somebody else (a Python socket), who keeps it open
 * for as long as a verb runs. It is made blocking with SO_RCVTIMEO, which saves
 * the poll() before each recv(); another thread may make it non-blocking again
 * at any time, so "would block" is never taken for a timeout before the time
 * has passed. Every verb takes a cp_patience and reports errno by pointer. After
 * the deadline what is there is still taken, but nothing is waited for.
 * One reader and one writer at a time; shutdown() may come from any thread.
 */
#ifndef CP_WIRE_H
#define CP_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "cp_clock.h"
#include "cp_status.h"

typedef struct cp_wire {
    int fd;             /* -1: none */
    int64_t rcvtimeo_ns; /* what SO_RCVTIMEO is set to; CP_FOREVER: none; -1: unknown */
    uint64_t sent_bytes;     /* how many the kernel has taken, since cp_wire_open() */
    uint64_t received_bytes; /* and given */
} cp_wire;

typedef enum cp_peeked {
    CP_PEEK_QUIET = 0, /* nothing to read, still open */
    CP_PEEK_DATA = 1,
    CP_PEEK_CLOSED = 2, /* end of file, or an error that ends the stream */
} cp_peeked;

void cp_wire_open(cp_wire *w, int fd, int64_t idle_ns);

/* What recv() would do now, without doing it. *byte: the first unread byte. */
cp_peeked cp_wire_peek(const cp_wire *w, char *byte);

/* Send all of iov[0..count), which is changed to show what is left. The whole
 * call has patience->idle_ns, as socket.sendall() has. CP_OK, CP_E_WTIMEOUT,
 * CP_E_INTR, CP_E_WRITE. */
cp_status cp_wire_send(cp_wire *w, struct iovec *iov, int count,
                       cp_patience *patience, int *err);

/* Receive at least one byte into iov[0..count). CP_OK with *got, CP_E_EOF,
 * CP_E_RTIMEOUT, CP_E_INTR, CP_E_READ. */
cp_status cp_wire_recv(cp_wire *w, struct iovec *iov, int count, size_t *got,
                       cp_patience *patience, int *err);

/* What can be done of either at once: CP_AGAIN where it would block. */
cp_status cp_wire_try_send(cp_wire *w, struct iovec **iov, int *count, int *err);
cp_status cp_wire_try_recv(cp_wire *w, struct iovec *iov, size_t *got, int *err);

/* Wait until send() or recv() would not block; nothing in time: CP_E_WTIMEOUT. May
 * end early with CP_AGAIN. */
cp_status cp_wire_wait_either(const cp_wire *w, cp_patience *patience, int *err);

/* Wait until recv() would not block. Same results as cp_wire_recv(). */
cp_status cp_wire_wait(const cp_wire *w, cp_patience *patience, int *err);

#endif

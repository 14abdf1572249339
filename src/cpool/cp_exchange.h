/* Many requests and many replies at once on one descriptor. Layer 2.
 *
 * Written and read interleaved, so that two full socket buffers never wait for
 * each other, and in steps: each ends when there are enough whole replies for
 * the layer above to build, or when it should encode more requests.
 */
#ifndef CP_EXCHANGE_H
#define CP_EXCHANGE_H

#include "cp_buf.h"
#include "cp_resp.h"
#include "cp_wire.h"

#define CP_EXCHANGE_ROOM 65536 /* the least room a recv() gets */

typedef struct cp_exchange {
    struct iovec *iov;    /* what is left to send */
    int count;            /* its parts; 0: all is out */
    int more;             /* the layer above has more to send after this */
    size_t wanted;        /* replies that are to come for all that was encoded */
    size_t enough;        /* bytes of whole replies that end a step */
    int64_t big;          /* the length above which a top-level string is left unread */
    cp_patience sending;
    cp_patience reading;
    int late;             /* the deadline has passed: what is there is the last of it */
    int64_t sent_at;      /* when all was out; told only where there is a deadline */
    /* what was found, from the head of the buffer; the layer above consumes it */
    size_t whole;         /* bytes of whole replies and pushes */
    size_t replies;       /* how many replies these are */
} cp_exchange;

/* One step. CP_OK: all wanted replies are whole, or enough bytes of them, or all
 * is sent and there is more. CP_BIG: behind the whole ones a large string begins,
 * the scanner stands before it. Else as cp_wire_send(), cp_wire_recv() and
 * cp_scan_step() end; what was found before is there all the same. */
cp_status cp_exchange_step(cp_exchange *x, cp_wire *wire, cp_buf *in, cp_scan *scan, int *err);

#endif

/* A growable byte buffer with a read position. Layer 1; knows no fd, no RESP.
 *
 * Readable bytes are data[pos..len). A producer asks for room (`reserve`),
 * writes at data + len and says how much (`commit`); a consumer takes from
 * the front (`consume`). One owner at a time; all memory belongs to the buffer.
 */
#ifndef CP_BUF_H
#define CP_BUF_H

#include <stddef.h>
#include "cp_status.h"

typedef struct cp_buf {
    char *data;
    size_t pos; /* first byte not yet consumed */
    size_t len; /* end of the bytes that are there */
    size_t cap; /* bytes allocated */
} cp_buf;

void cp_buf_free(cp_buf *b);

/* Room for at least `room` bytes after len: moves the readable bytes to the
 * front when that is enough, else doubles. CP_OK or CP_E_NOMEM (unchanged). */
cp_status cp_buf_reserve(cp_buf *b, size_t room);

/* Give back memory above `keep_bytes` once nothing is readable. */
void cp_buf_shrink(cp_buf *b, size_t keep_bytes);

static inline size_t cp_buf_size(const cp_buf *b) { return b->len - b->pos; }
static inline size_t cp_buf_room(const cp_buf *b) { return b->cap - b->len; }
static inline char *cp_buf_end(cp_buf *b) { return b->data + b->len; }
static inline const char *cp_buf_head(const cp_buf *b) { return b->data + b->pos; }
static inline void cp_buf_commit(cp_buf *b, size_t n) { b->len += n; }

static inline void
cp_buf_consume(cp_buf *b, size_t n)
{
    b->pos += n;
    if (b->pos == b->len)
        b->pos = b->len = 0;
}

#endif

/* RESP2/RESP3: how long is the next reply, and writing of headers. Layer 1.
 *
 * The scanner tells when one whole reply is at hand and that it is well
 * formed; objects are built by the layer above in a second pass over bytes it
 * may then trust. It is resumable: a byte it has passed is not looked at again
 * (but for the few digits of a length that was cut), however the reply came in.
 * It allocates only its stack of open aggregates, by their depth. No fd, no
 * time, no Python. One owner at a time.
 */
#ifndef CP_RESP_H
#define CP_RESP_H

#include <stddef.h>
#include <stdint.h>
#include "cp_status.h"

#define CP_SCAN_INLINE_DEPTH 8
/* The room cp_put_header() may take: type byte, 20 digits, CR LF. */
#define CP_HEADER_MAX 24

typedef enum cp_why {
    CP_WHY_NONE = 0,
    CP_WHY_TYPE,    /* a byte that starts no RESP value */
    CP_WHY_LENGTH,  /* a length or number that is none */
    CP_WHY_LIMIT,   /* longer than max_bulk_bytes */
    CP_WHY_DEPTH,   /* nested deeper than max_depth */
    CP_WHY_ENDING,  /* CR LF is missing where it must stand */
    CP_WHY_PUSH,    /* a push inside another reply, or an empty one */
} cp_why;

typedef struct cp_scan {
    size_t off;      /* bytes of this reply that are passed; its length after CP_OK */
    size_t line_off; /* how far a line without its end was searched */
    size_t body;     /* after CP_AGAIN: where an unfinished top-level string begins, or 0 */
    int64_t body_len; /* and how long it will be, without its CR LF */
    int whole;       /* CP_OK was said, and is said again until the reset */
    cp_why why;      /* after CP_E_PROTO; the offending header is at off */
    int64_t max_bulk_bytes;
    uint32_t max_depth;
    uint32_t depth;  /* open aggregates */
    uint32_t cap;
    int64_t *left;   /* values still to come, by open aggregate */
    int64_t first_left[CP_SCAN_INLINE_DEPTH];
} cp_scan;

void cp_scan_init(cp_scan *s, uint32_t max_depth, int64_t max_bulk_bytes);
void cp_scan_free(cp_scan *s);

/* Forget the reply that was scanned (or given up): the next byte starts one. */
void cp_scan_reset(cp_scan *s);

/* Look at data[0..n), which starts where the reply starts and holds at least
 * the bytes of the last call. CP_OK: one reply, s->off bytes long. CP_AGAIN:
 * more is needed. CP_E_PROTO: s->why. CP_E_NOMEM. */
cp_status cp_scan_step(cp_scan *s, const char *data, size_t n);

/* A request in bytes that somebody else has packed: *len its length,
 * name[0..*name_len) its first argument. CP_OK, CP_AGAIN (cut), CP_E_PROTO. */
cp_status cp_scan_request(const char *data, size_t n, size_t *len,
                          const char **name, size_t *name_len,
                          const char **second, size_t *second_len);

/* Write `<type><number>CR LF`, return the end. */
char *cp_put_header(char *to, char type, uint64_t number);

#endif

/* The status codes of every C function that can fail. Layer 0.
 *
 * nogil code returns one of these and never raises; cpool/errors.py owns the
 * only table that turns one into an exception.
 */
#ifndef CP_STATUS_H
#define CP_STATUS_H

typedef enum cp_status {
    CP_OK = 0,
    CP_AGAIN = 1,     /* more bytes are needed before the answer is known */
    CP_BIG = 2,       /* a large top-level string: read it where it will live */
    CP_E_NOMEM = -1,
    CP_E_EOF = -2,    /* the peer has closed its side */
    CP_E_RTIMEOUT = -3, /* nothing came in time */
    CP_E_WTIMEOUT = -4, /* the peer took nothing in time */
    CP_E_INTR = -5,   /* a signal came: run its handler, then go on */
    CP_E_READ = -6,   /* errno says why */
    CP_E_WRITE = -7,  /* errno says why */
    CP_E_PROTO = -8,  /* the bytes are not RESP, or pass a limit */
} cp_status;

#endif

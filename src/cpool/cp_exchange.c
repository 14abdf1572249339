/* A pipeline's requests and replies, interleaved on one descriptor. */
#include "cp_exchange.h"

/* Find whole replies behind those found already. CP_AGAIN: bytes are missing. */
static cp_status
cp_exchange__scan(cp_exchange *x, const cp_buf *in, cp_scan *scan)
{
    while (x->replies < x->wanted && x->whole < x->enough) {
        const char *head = cp_buf_head(in) + x->whole;
        size_t size = cp_buf_size(in) - x->whole;
        if (size == 0)
            return CP_AGAIN;
        cp_status st = cp_scan_step(scan, head, size);
        if (st == CP_AGAIN && scan->body != 0 && scan->body_len > x->big)
            return CP_BIG;
        if (st != CP_OK)
            return st;
        if (*head != '>')
            x->replies++;
        x->whole += scan->off;
        cp_scan_reset(scan);
    }
    return CP_OK;
}

static cp_status
cp_exchange__send(cp_exchange *x, cp_wire *wire, int *err)
{
    int before = x->count;
    size_t left = before > 0 ? x->iov->iov_len : 0;
    cp_status st = cp_wire_try_send(wire, &x->iov, &x->count, err);
    if (x->count < before || (x->count > 0 && x->iov->iov_len < left))
        cp_patience_renew(&x->sending);
    if (x->count == 0 && !x->more && x->sending.deadline != CP_FOREVER)
        x->sent_at = cp_clock_now();
    return st;
}

/* Receive once: as long as it takes if there is nothing else to do, what is there
 * already if more is to be sent, either of both while the peer takes no more. */
static cp_status
cp_exchange__receive(cp_exchange *x, cp_wire *wire, cp_buf *in, int *err)
{
    struct iovec iov;
    size_t got = 0;
    cp_status st;
    if (cp_buf_reserve(in, CP_EXCHANGE_ROOM) != CP_OK)
        return CP_E_NOMEM;
    iov.iov_base = cp_buf_end(in);
    iov.iov_len = cp_buf_room(in);
    if (x->count == 0 && !x->more)
        st = cp_wire_recv(wire, &iov, 1, &got, &x->reading, err);
    else
        st = cp_wire_try_recv(wire, &iov, &got, err);
    if (st == CP_OK) {
        cp_buf_commit(in, got);
        cp_patience_renew(&x->sending); /* the peer is alive */
    } else if (st == CP_AGAIN && x->count > 0)
        st = cp_wire_wait_either(wire, &x->sending, err);
    return st == CP_AGAIN ? CP_OK : st;
}

cp_status
cp_exchange_step(cp_exchange *x, cp_wire *wire, cp_buf *in, cp_scan *scan, int *err)
{
    for (;;) {
        cp_status st = cp_exchange__scan(x, in, scan);
        if (st == CP_OK && x->whole == 0 && x->count > 0)
            st = CP_AGAIN; /* all that was sent so far is answered */
        if (st != CP_AGAIN)
            return st;
        if (x->late)
            return x->count > 0 || x->more ? CP_E_WTIMEOUT : CP_E_RTIMEOUT;
        if (x->count > 0) {
            st = cp_exchange__send(x, wire, err);
            if (st != CP_OK && st != CP_AGAIN)
                return st;
        }
        int sent = x->count == 0;
        if (sent && !x->more && x->wanted == 0)
            return CP_OK; /* answered before the last byte was out */
        st = cp_exchange__receive(x, wire, in, err);
        if (st != CP_OK)
            return st;
        x->late = cp_patience_is_over(&x->sending);
        if (sent && x->more)
            return CP_OK;
    }
}

/* send, recv, peek and wait on one descriptor. */
#define _GNU_SOURCE /* POLLRDHUP and friends on glibc; harmless elsewhere */
#include "cp_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: Python ignores SIGPIPE */
#endif

#define CP_WIRE_IOV 512 /* POSIX promises 16, every system we know gives 1,024 */

static int
cp_wire__would_block(int err)
{
    return err == EAGAIN || err == EWOULDBLOCK;
}

/* Blocking, with the kernel's own clock for the common wait. Failure is no
 * error: the verbs poll() whenever the descriptor turns out non-blocking. */
static void
cp_wire__make_blocking(const cp_wire *w)
{
    int flags = fcntl(w->fd, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK))
        (void)fcntl(w->fd, F_SETFL, flags & ~O_NONBLOCK);
}

static void
cp_wire__set_rcvtimeo(cp_wire *w, int64_t idle_ns)
{
    struct timeval tv = {0, 0}; /* zero: no limit */
    if (idle_ns != CP_FOREVER) {
        tv.tv_sec = (time_t)(idle_ns / CP_NS_PER_S);
        tv.tv_usec = (suseconds_t)(idle_ns % CP_NS_PER_S / 1000);
        if (tv.tv_sec == 0 && tv.tv_usec == 0)
            tv.tv_usec = 1;
    }
    int rc = setsockopt(w->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    w->rcvtimeo_ns = rc == 0 ? idle_ns : -1;
    /* Our own sends never block; those of Python's socket, which believes that
     * the descriptor is non-blocking, must not do so for ever. */
    (void)setsockopt(w->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
}

void
cp_wire_open(cp_wire *w, int fd, int64_t idle_ns)
{
    w->fd = fd;
    w->rcvtimeo_ns = -1;
    w->sent_bytes = w->received_bytes = 0;
    if (idle_ns == 0)
        return; /* the owner wants it non-blocking */
    cp_wire__make_blocking(w);
    cp_wire__set_rcvtimeo(w, idle_ns);
}

cp_peeked
cp_wire_peek(const cp_wire *w, char *byte)
{
    ssize_t n;
    do
        n = recv(w->fd, byte, 1, MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        return CP_PEEK_DATA;
    if (n < 0 && cp_wire__would_block(errno))
        return CP_PEEK_QUIET;
    return CP_PEEK_CLOSED;
}

/* Wait for `events`. The end of the wait is rounded up to poll()'s milliseconds. */
static cp_status
cp_wire__poll(int fd, short events, cp_patience *patience, cp_status timeout,
              cp_status failure, int *err)
{
    struct pollfd p = {fd, events, 0};
    int64_t until = cp_patience_until(patience);
    int wait_ms = -1;
    if (cp_patience_is_over(patience))
        return timeout;
    if (until != CP_FOREVER) {
        int64_t left = until - cp_clock_now();
        int64_t ms = left <= 0 ? 0 : (left + CP_NS_PER_MS - 1) / CP_NS_PER_MS;
        wait_ms = ms > INT_MAX ? INT_MAX : (int)ms;
    }
    int rc = poll(&p, 1, wait_ms);
    if (rc > 0)
        return CP_OK;
    if (rc == 0)
        return wait_ms == INT_MAX ? CP_AGAIN : timeout;
    *err = errno;
    return errno == EINTR ? CP_E_INTR : failure;
}

cp_status
cp_wire_wait(const cp_wire *w, cp_patience *patience, int *err)
{
    cp_status st;
    do
        st = cp_wire__poll(w->fd, POLLIN, patience, CP_E_RTIMEOUT, CP_E_READ, err);
    while (st == CP_AGAIN);
    return st;
}

cp_status
cp_wire_wait_either(const cp_wire *w, cp_patience *patience, int *err)
{
    return cp_wire__poll(w->fd, POLLIN | POLLOUT, patience, CP_E_WTIMEOUT, CP_E_WRITE, err);
}

static int
cp_wire__advance(struct iovec **iov, int count, size_t n)
{
    while (count > 0 && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)->iov_len = 0;
        (*iov)++;
        count--;
    }
    if (count > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
    return count;
}

static ssize_t
cp_wire__send_once(const cp_wire *w, struct iovec *iov, int count)
{
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    if (count == 1)
        return send(w->fd, iov->iov_base, iov->iov_len, flags);
    struct msghdr msg;
    memset(&msg, 0, sizeof msg);
    msg.msg_iov = iov;
    msg.msg_iovlen = (unsigned)(count < CP_WIRE_IOV ? count : CP_WIRE_IOV);
    return sendmsg(w->fd, &msg, flags);
}

static inline cp_status
cp_wire__try_send(cp_wire *w, struct iovec **iov, int *count, int *err)
{
    while (*count > 0) {
        ssize_t n = cp_wire__send_once(w, *iov, *count);
        if (n < 0) {
            *err = errno;
            if (errno == EINTR)
                return CP_E_INTR;
            return cp_wire__would_block(errno) ? CP_AGAIN : CP_E_WRITE;
        }
        w->sent_bytes += (size_t)n;
        *count = cp_wire__advance(iov, *count, (size_t)n);
    }
    return CP_OK;
}

cp_status
cp_wire_try_send(cp_wire *w, struct iovec **iov, int *count, int *err)
{
    return cp_wire__try_send(w, iov, count, err);
}

cp_status
cp_wire_send(cp_wire *w, struct iovec *iov, int count, cp_patience *patience, int *err)
{
    for (;;) {
        cp_status st = cp_wire__try_send(w, &iov, &count, err);
        if (st != CP_AGAIN)
            return st;
        st = cp_wire__poll(w->fd, POLLOUT, patience, CP_E_WTIMEOUT, CP_E_WRITE, err);
        if (st != CP_OK && st != CP_AGAIN)
            return st;
    }
}

/* One recv(). Where the kernel keeps the time (nothing but SO_RCVTIMEO bounds
 * this wait, and it has just begun) it may block; else it must not. */
static ssize_t
cp_wire__recv_once(const cp_wire *w, struct iovec *iov, int count, int may_block)
{
    int flags = may_block ? 0 : MSG_DONTWAIT;
    if (count == 1)
        return recv(w->fd, iov->iov_base, iov->iov_len, flags);
    struct msghdr msg;
    memset(&msg, 0, sizeof msg);
    msg.msg_iov = iov;
    msg.msg_iovlen = (unsigned)count;
    return recvmsg(w->fd, &msg, flags);
}

cp_status
cp_wire_try_recv(cp_wire *w, struct iovec *iov, size_t *got, int *err)
{
    ssize_t n = cp_wire__recv_once(w, iov, 1, 0);
    if (n > 0) {
        w->received_bytes += (size_t)n;
        *got = (size_t)n;
        return CP_OK;
    }
    if (n == 0)
        return CP_E_EOF;
    *err = errno;
    if (errno == EINTR)
        return CP_E_INTR;
    return cp_wire__would_block(errno) ? CP_AGAIN : CP_E_READ;
}

cp_status
cp_wire_recv(cp_wire *w, struct iovec *iov, int count, size_t *got,
             cp_patience *patience, int *err)
{
    int kernel_waits = patience->until == 0 && patience->deadline == CP_FOREVER &&
                       patience->idle_ns > 0 && patience->idle_ns == w->rcvtimeo_ns;
    if (kernel_waits)
        (void)cp_patience_until(patience);
    for (;;) {
        ssize_t n = cp_wire__recv_once(w, iov, count, kernel_waits);
        if (n > 0) {
            w->received_bytes += (size_t)n;
            *got = (size_t)n;
            cp_patience_renew(patience);
            return CP_OK;
        }
        if (n == 0)
            return CP_E_EOF;
        *err = errno;
        if (errno == EINTR)
            return CP_E_INTR;
        if (!cp_wire__would_block(errno))
            return CP_E_READ;
        if (patience->idle_ns == 0)
            return CP_E_RTIMEOUT;
        /* Either the time is over or another thread's settimeout() has made
         * the descriptor non-blocking: the clock tells which. */
        if (kernel_waits && patience->until != CP_FOREVER &&
            cp_clock_now() >= patience->until - CP_NS_PER_MS)
            return CP_E_RTIMEOUT;
        if (kernel_waits)
            cp_wire__make_blocking(w);
        kernel_waits = 0;
        cp_status st = cp_wire_wait(w, patience, err);
        if (st != CP_OK)
            return st;
    }
}

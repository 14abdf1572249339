/* cp_wire: sending, with short writes at every byte and every errno. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cp_pair.h"
#include "cp_test.h"

/* What has arrived at the peer is exactly this. */
static void
check_arrived(const pair *p, const char *expected, size_t n)
{
    char *got = malloc(n + 1);
    size_t have = 0;
    while (have < n) {
        ssize_t more = recv(p->peer, got + have, n - have, MSG_DONTWAIT);
        if (more <= 0)
            break;
        have += (size_t)more;
    }
    CHECK_EQ(have, n);
    CHECK(memcmp(got, expected, have) == 0);
    CHECK_EQ(recv(p->peer, got, 1, MSG_DONTWAIT), -1);
    free(got);
}

static cp_patience
a_minute(void)
{
    return cp_patience_of(MINUTE, CP_FOREVER);
}

TEST(one_piece_is_sent_in_one_call)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_OK);
    CHECK_EQ(fault_count(FAULT_SEND), 1);
    CHECK_EQ(fault_last_argument(FAULT_SEND), MSG_DONTWAIT | MSG_NOSIGNAL);
    check_arrived(&p, "PING\r\n", 6);
    pair_close(&p);
}

TEST(several_pieces_are_sent_in_one_call_and_in_order)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    char a[] = "one", b[] = "", c[] = "two", d[] = "three";
    struct iovec iov[] = {{a, 3}, {b, 0}, {c, 3}, {d, 5}};
    int err = 0;
    CHECK_EQ(cp_wire_send(&p.wire, iov, 4, &patience, &err), CP_OK);
    CHECK_EQ(fault_count(FAULT_SEND), 1);
    check_arrived(&p, "onetwothree", 11);
    pair_close(&p);
}

TEST(nothing_to_send_is_sent)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    struct iovec iov[] = {{NULL, 0}, {NULL, 0}};
    int err = 0;
    CHECK_EQ(cp_wire_send(&p.wire, iov, 0, &patience, &err), CP_OK);
    CHECK_EQ(cp_wire_send(&p.wire, iov, 1, &patience, &err), CP_OK);
    CHECK_EQ(cp_wire_send(&p.wire, iov, 2, &patience, &err), CP_OK);
    check_arrived(&p, "", 0);
    pair_close(&p);
}

TEST(a_short_write_at_any_byte_loses_and_doubles_nothing)
{
    for (size_t limit = 1; limit <= 12; limit++) {
        pair p = pair_open(MINUTE);
        cp_patience patience = a_minute();
        char a[] = "one", b[] = "", c[] = "two", d[] = "three";
        struct iovec iov[] = {{a, 3}, {b, 0}, {c, 3}, {d, 5}};
        int err = 0;
        fault_limit(limit);
        CHECK_EQ(cp_wire_send(&p.wire, iov, 4, &patience, &err), CP_OK);
        fault_limit(0);
        check_arrived(&p, "onetwothree", 11);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(iov[i].iov_len, 0);
        pair_close(&p);
    }
}

TEST(more_pieces_than_the_kernel_takes_go_out_in_several_calls)
{
    enum { PIECES = 1300 };
    static char data[PIECES];
    static struct iovec iov[PIECES];
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    int err = 0;
    for (int i = 0; i < PIECES; i++) {
        data[i] = (char)('a' + i % 26);
        iov[i] = (struct iovec){data + i, 1};
    }
    CHECK_EQ(cp_wire_send(&p.wire, iov, PIECES, &patience, &err), CP_OK);
    CHECK(fault_count(FAULT_SEND) >= 2);
    check_arrived(&p, data, PIECES);
    pair_close(&p);
}

TEST(a_signal_shows_what_is_left_and_the_rest_can_follow)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    char a[] = "one", b[] = "three";
    struct iovec iov[] = {{a, 3}, {b, 5}};
    int err = 0;
    fault_short(FAULT_SEND, 4);
    fault_errno(FAULT_SEND, EINTR);
    CHECK_EQ(cp_wire_send(&p.wire, iov, 2, &patience, &err), CP_E_INTR);
    CHECK_EQ(iov[0].iov_len, 0);
    CHECK_EQ(iov[1].iov_len, 4);
    CHECK_EQ(cp_wire_send(&p.wire, iov, 2, &patience, &err), CP_OK);
    check_arrived(&p, "onethree", 8);
    pair_close(&p);
}

TEST(each_errno_of_send_has_its_status)
{
    const int errors[] = {EPIPE, ECONNRESET, ENOTCONN, EBADF, ENOBUFS, ENOMEM, EMSGSIZE,
                          EHOSTUNREACH, EIO};
    pair p = pair_open(MINUTE);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        char data[] = "PING\r\n";
        struct iovec iov = {data, 6};
        cp_patience patience = a_minute();
        int err = 0;
        fault_errno(FAULT_SEND, errors[i]);
        CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_WRITE);
        CHECK_EQ(err, errors[i]);
        CHECK_EQ(iov.iov_len, 6);
    }
    pair_close(&p);
}

TEST(a_peer_that_has_gone_is_a_write_error_and_no_signal)
{
    pair p = pair_open(MINUTE);
    char a[] = "one", b[] = "two";
    struct iovec one = {a, 3}, two[] = {{a, 3}, {b, 3}};
    cp_patience patience = a_minute();
    int err = 0;
    close(p.peer);
    CHECK_EQ(cp_wire_send(&p.wire, &one, 1, &patience, &err), CP_E_WRITE);
    CHECK_EQ(err, EPIPE);
    CHECK_EQ(cp_wire_send(&p.wire, two, 2, &patience, &err), CP_E_WRITE);
    CHECK_EQ(err, EPIPE);
    close(p.wire.fd);
}

TEST(a_full_socket_is_waited_for)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    fault_errno(FAULT_SEND, EAGAIN);
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_OK);
    CHECK_EQ(fault_count(FAULT_POLL), 1);
    check_arrived(&p, "PING\r\n", 6);
    pair_close(&p);
}

TEST(a_peer_that_takes_nothing_in_time_is_a_write_timeout)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(20 * CP_NS_PER_MS, CP_FOREVER);
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    pair_fill(&p);
    int64_t begun = cp_clock_now();
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_WTIMEOUT);
    CHECK(cp_clock_now() - begun >= 20 * CP_NS_PER_MS);
    CHECK_EQ(iov.iov_len, 6);
    pair_close(&p);
}

TEST(a_deadline_bounds_a_send_whatever_the_timeout)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(CP_FOREVER, cp_clock_now() + 20 * CP_NS_PER_MS);
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    pair_fill(&p);
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_WTIMEOUT);
    CHECK(cp_clock_now() >= patience.deadline);
    pair_close(&p);
}

TEST(a_non_blocking_send_does_not_wait)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(0, CP_FOREVER);
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    pair_fill(&p);
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_WTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 0);
    pair_close(&p);
}

TEST(a_wait_longer_than_poll_can_is_made_of_several)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(CP_NS_PER_S * 86400 * 365, CP_FOREVER);
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    fault_errno(FAULT_SEND, EAGAIN);
    fault_poll_timeout();
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_OK);
    check_arrived(&p, "PING\r\n", 6);
    pair_close(&p);
}

TEST(a_signal_in_the_middle_of_the_wait_is_told)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    fault_errno(FAULT_SEND, EAGAIN);
    fault_errno(FAULT_POLL, EINTR);
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_INTR);
    int64_t until = patience.until;
    CHECK(until > 0);
    fault_errno(FAULT_SEND, EAGAIN);
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_OK);
    CHECK_EQ(patience.until, until);
    pair_close(&p);
}

TEST(a_failing_poll_is_a_write_error)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    fault_errno(FAULT_SEND, EAGAIN);
    fault_errno(FAULT_POLL, ENOMEM);
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_WRITE);
    CHECK_EQ(err, ENOMEM);
    pair_close(&p);
}

TEST(bytes_that_go_out_do_not_prolong_a_send)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(10 * CP_NS_PER_S, CP_FOREVER);
    char data[] = "0123456789";
    struct iovec iov = {data, 10};
    int err = 0;
    for (int second = 0; second < 9; second++) {
        fault_clear();
        fault_short(FAULT_SEND, 1);
        fault_errno(FAULT_SEND, EAGAIN);
        fault_errno(FAULT_POLL, EINTR);
        fault_clock_advance(2 * second * CP_NS_PER_S);
        cp_status st = cp_wire_send(&p.wire, &iov, 1, &patience, &err);
        CHECK_EQ(st, CP_E_INTR);
    }
    CHECK_EQ(iov.iov_len, 1);
    fault_errno(FAULT_SEND, EAGAIN);
    fault_poll_timeout();
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_WTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 0);
    pair_close(&p);
}

typedef struct drain {
    int fd;
    size_t bytes;
    unsigned long sum;
} drain;

static void *
drain_run(void *argument)
{
    drain *d = argument;
    unsigned char block[1777];
    ssize_t n;
    while ((n = read(d->fd, block, sizeof block)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            d->sum = d->sum * 31 + block[i];
        d->bytes += (size_t)n;
    }
    return NULL;
}

TEST(megabytes_arrive_whole_at_a_slow_reader)
{
    enum { BLOCK = 300000, BLOCKS = 8 };
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    struct iovec iov[BLOCKS];
    unsigned char *data = malloc((size_t)BLOCK * BLOCKS);
    unsigned long sum = 0;
    drain d = {p.peer, 0, 0};
    pthread_t thread;
    int err = 0;
    for (size_t i = 0; i < (size_t)BLOCK * BLOCKS; i++) {
        data[i] = (unsigned char)(i * 7 % 253);
        sum = sum * 31 + data[i];
    }
    for (size_t i = 0; i < BLOCKS; i++)
        iov[i] = (struct iovec){data + i * BLOCK, BLOCK};
    CHECK_EQ(pthread_create(&thread, NULL, drain_run, &d), 0);
    CHECK_EQ(cp_wire_send(&p.wire, iov, BLOCKS, &patience, &err), CP_OK);
    shutdown(p.wire.fd, SHUT_WR);
    pthread_join(thread, NULL);
    CHECK_EQ(d.bytes, (size_t)BLOCK * BLOCKS);
    CHECK(d.sum == sum);
    free(data);
    pair_close(&p);
}

/* -- Sending what can be sent at once ----------------------------------------- */

TEST(a_try_sends_all_that_goes)
{
    pair p = pair_open(MINUTE);
    char a[] = "one", b[] = "", c[] = "three";
    struct iovec parts[] = {{a, 3}, {b, 0}, {c, 5}}, *iov = parts;
    int count = 3, err = 0;
    CHECK_EQ(cp_wire_try_send(&p.wire, &iov, &count, &err), CP_OK);
    CHECK_EQ(count, 0);
    CHECK_EQ(fault_last_argument(FAULT_SEND), MSG_DONTWAIT | MSG_NOSIGNAL);
    check_arrived(&p, "onethree", 8);
    pair_close(&p);
}

TEST(a_try_that_would_block_shows_what_is_left)
{
    pair p = pair_open(MINUTE);
    char a[] = "one", b[] = "three";
    struct iovec parts[] = {{a, 3}, {b, 5}}, *iov = parts;
    int count = 2, err = 0;
    fault_short(FAULT_SEND, 5);
    fault_errno(FAULT_SEND, EAGAIN);
    CHECK_EQ(cp_wire_try_send(&p.wire, &iov, &count, &err), CP_AGAIN);
    CHECK_EQ(count, 1);
    CHECK(iov == &parts[1]);
    CHECK_EQ(iov->iov_len, 3);
    CHECK_EQ(fault_count(FAULT_POLL), 0);
    CHECK_EQ(cp_wire_try_send(&p.wire, &iov, &count, &err), CP_OK);
    check_arrived(&p, "onethree", 8);
    pair_close(&p);
}

TEST(a_try_tells_of_signals_and_errors)
{
    pair p = pair_open(MINUTE);
    char a[] = "one";
    struct iovec part = {a, 3}, *iov = &part;
    int count = 1, err = 0;
    fault_errno(FAULT_SEND, EINTR);
    CHECK_EQ(cp_wire_try_send(&p.wire, &iov, &count, &err), CP_E_INTR);
    fault_errno(FAULT_SEND, ECONNRESET);
    CHECK_EQ(cp_wire_try_send(&p.wire, &iov, &count, &err), CP_E_WRITE);
    CHECK_EQ(err, ECONNRESET);
    CHECK_EQ(count, 1);
    CHECK_EQ(iov->iov_len, 3);
    pair_close(&p);
}

TEST(a_try_with_nothing_to_send_makes_no_call)
{
    pair p = pair_open(MINUTE);
    struct iovec *iov = NULL;
    int count = 0, err = 0;
    CHECK_EQ(cp_wire_try_send(&p.wire, &iov, &count, &err), CP_OK);
    CHECK_EQ(fault_count(FAULT_SEND), 0);
    pair_close(&p);
}

TEST(what_the_kernel_has_taken_is_counted_though_the_send_ends_in_an_error)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = a_minute();
    char data[] = "PING\r\n";
    struct iovec iov = {data, 6};
    int err = 0;
    CHECK_EQ(p.wire.sent_bytes, 0);
    fault_errno(FAULT_SEND, ECONNRESET);
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_WRITE);
    CHECK_EQ(p.wire.sent_bytes, 0);
    fault_short(FAULT_SEND, 4);
    fault_errno(FAULT_SEND, EPIPE);
    CHECK_EQ(cp_wire_send(&p.wire, &iov, 1, &patience, &err), CP_E_WRITE);
    CHECK_EQ(p.wire.sent_bytes, 4);
    pair_close(&p);
}

/* cp_wire: receiving, waiting and peeking, with every errno and every kind of wait. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cp_pair.h"
#include "cp_test.h"

static void
say(const pair *p, const char *text)
{
    CHECK_EQ(write(p->peer, text, strlen(text)), strlen(text));
}

static cp_status
receive(pair *p, char *to, size_t room, size_t *got, cp_patience *patience, int *err)
{
    struct iovec iov = {to, room};
    return cp_wire_recv(&p->wire, &iov, 1, got, patience, err);
}

TEST(bytes_that_are_there_are_received_at_once)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char to[16];
    size_t got = 0;
    int err = 0;
    say(&p, "hello");
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(got, 5);
    CHECK(memcmp(to, "hello", 5) == 0);
    CHECK_EQ(fault_count(FAULT_POLL), 0);
    pair_close(&p);
}

TEST(two_buffers_are_filled_one_after_the_other)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char a[3], b[8];
    struct iovec iov[2] = {{a, sizeof a}, {b, sizeof b}};
    size_t got = 0;
    int err = 0;
    say(&p, "abcdefg");
    CHECK_EQ(cp_wire_recv(&p.wire, iov, 2, &got, &patience, &err), CP_OK);
    CHECK_EQ(got, 7);
    CHECK(memcmp(a, "abc", 3) == 0 && memcmp(b, "defg", 4) == 0);
    pair_close(&p);
}

TEST(received_bytes_start_the_inactivity_time_anew)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    int64_t first = cp_patience_until(&patience);
    say(&p, "x");
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(patience.until, 0);
    fault_clock_advance(CP_NS_PER_S);
    CHECK(cp_patience_until(&patience) >= first + CP_NS_PER_S);
    pair_close(&p);
}

TEST(the_end_of_the_stream_is_told)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char to[4];
    size_t got = 7;
    int err = 0;
    shutdown(p.peer, SHUT_WR);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_EOF);
    CHECK_EQ(got, 7);
    pair_close(&p);
}

TEST(bytes_before_the_end_of_the_stream_are_received_first)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    say(&p, "abc");
    shutdown(p.peer, SHUT_WR);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(got, 3);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_EOF);
    pair_close(&p);
}

TEST(each_errno_of_recv_has_its_status)
{
    const int errors[] = {ECONNRESET, ETIMEDOUT, EPIPE, ENOTCONN, EBADF, ENOMEM, EIO,
                          EHOSTUNREACH, ENETRESET, ECONNREFUSED};
    pair p = pair_open(MINUTE);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
        char to[4];
        size_t got = 0;
        int err = 0;
        fault_errno(FAULT_RECV, errors[i]);
        CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_READ);
        CHECK_EQ(err, errors[i]);
    }
    pair_close(&p);
}

TEST(a_closed_descriptor_is_a_read_error)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    cp_wire none = {.fd = -1, .rcvtimeo_ns = -1};
    struct iovec iov = {(char[4]){0}, 4};
    size_t got = 0;
    int err = 0;
    CHECK_EQ(cp_wire_recv(&none, &iov, 1, &got, &patience, &err), CP_E_READ);
    CHECK_EQ(err, EBADF);
    pair_close(&p);
}

TEST(a_signal_gives_the_caller_the_word_and_the_wait_goes_on)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    fault_errno(FAULT_RECV, EINTR);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_INTR);
    int64_t until = patience.until;
    CHECK(until > 0);
    fault_clock_advance(CP_NS_PER_S);
    say(&p, "x");
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(got, 1);
    pair_close(&p);
}

TEST(a_storm_of_signals_does_not_prolong_the_wait)
{
    pair p = pair_open(10 * CP_NS_PER_S);
    cp_patience patience = cp_patience_of(10 * CP_NS_PER_S, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    for (int second = 0; second < 10; second++) {
        fault_errno(FAULT_RECV, EINTR);
        CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_INTR);
        fault_clock_advance(CP_NS_PER_S);
    }
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_RTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 0);
    pair_close(&p);
}

TEST(a_signal_in_the_middle_of_poll_is_told_too)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, cp_clock_now() + MINUTE);
    char to[4];
    size_t got = 0;
    int err = 0;
    fault_errno(FAULT_POLL, EINTR);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_INTR);
    CHECK_EQ(fault_count(FAULT_POLL), 1);
    pair_close(&p);
}

TEST(a_failing_poll_is_a_read_error)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, cp_clock_now() + MINUTE);
    char to[4];
    size_t got = 0;
    int err = 0;
    fault_errno(FAULT_POLL, ENOMEM);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_READ);
    CHECK_EQ(err, ENOMEM);
    pair_close(&p);
}

TEST(the_kernel_keeps_the_time_of_the_common_wait)
{
    pair p = pair_open(30 * CP_NS_PER_MS);
    cp_patience patience = cp_patience_of(30 * CP_NS_PER_MS, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    int64_t begun = cp_clock_now();
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_RTIMEOUT);
    CHECK(cp_clock_now() - begun >= 25 * CP_NS_PER_MS);
    CHECK_EQ(fault_count(FAULT_RECV), 1);
    CHECK_EQ(fault_last_argument(FAULT_RECV), 0);
    CHECK_EQ(fault_count(FAULT_POLL), 0);
    pair_close(&p);
}

TEST(a_deadline_bounds_the_wait_whatever_the_timeout)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, cp_clock_now() + 20 * CP_NS_PER_MS);
    char to[4];
    size_t got = 0;
    int err = 0;
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_RTIMEOUT);
    CHECK(cp_clock_now() >= patience.deadline);
    CHECK_EQ(fault_last_argument(FAULT_RECV) & MSG_DONTWAIT, MSG_DONTWAIT);
    pair_close(&p);
}

TEST(a_deadline_that_has_passed_still_takes_what_is_there)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, cp_clock_now() - CP_NS_PER_S);
    char to[4];
    size_t got = 0;
    int err = 0;
    say(&p, "x");
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_RTIMEOUT);
    pair_close(&p);
}

TEST(bytes_do_not_move_a_deadline)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, cp_clock_now() + MINUTE);
    int64_t deadline = patience.deadline;
    char to[4];
    size_t got = 0;
    int err = 0;
    say(&p, "x");
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(patience.deadline, deadline);
    fault_clock_advance(2 * MINUTE);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_RTIMEOUT);
    pair_close(&p);
}

TEST(no_time_at_all_is_a_look_without_a_wait)
{
    pair p = pair_open(0);
    cp_patience patience = cp_patience_of(0, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_RTIMEOUT);
    CHECK_EQ(fault_count(FAULT_POLL), 0);
    say(&p, "x");
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    pair_close(&p);
}

TEST(another_timeout_than_the_kernels_is_kept_by_poll)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(20 * CP_NS_PER_MS, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    fault_clock_stop();
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_RTIMEOUT);
    CHECK_EQ(fault_count(FAULT_POLL), 1);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 20);
    pair_close(&p);
}

TEST(would_block_before_the_time_is_over_is_no_timeout)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    CHECK_EQ(fcntl(p.wire.fd, F_SETFL, O_NONBLOCK), 0); /* another thread's settimeout() */
    fault_errno(FAULT_RECV, EAGAIN);
    say(&p, "x");
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(got, 1);
    CHECK_EQ(fault_count(FAULT_POLL), 1);
    CHECK_EQ(fault_last_argument(FAULT_RECV), MSG_DONTWAIT); /* the kernel's clock is over */
    CHECK_EQ(fcntl(p.wire.fd, F_GETFL) & O_NONBLOCK, 0);
    pair_close(&p);
}

TEST(would_block_in_a_wait_for_ever_is_no_timeout)
{
    pair p = pair_open(CP_FOREVER);
    cp_patience patience = cp_patience_of(CP_FOREVER, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    fault_errno(FAULT_RECV, EAGAIN);
    say(&p, "x");
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(fault_last_argument(FAULT_POLL), -1);
    pair_close(&p);
}

TEST(would_block_after_the_time_is_over_is_a_timeout)
{
    pair p = pair_open(CP_NS_PER_S);
    cp_patience patience = cp_patience_of(CP_NS_PER_S, CP_FOREVER);
    char to[4];
    size_t got = 0;
    int err = 0;
    fault_errno(FAULT_RECV, EAGAIN);
    fault_errno(FAULT_POLL, EINTR);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_INTR);
    fault_clock_advance(2 * CP_NS_PER_S);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_E_RTIMEOUT);
    pair_close(&p);
}

TEST(a_false_alarm_of_poll_waits_again)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, cp_clock_now() + MINUTE);
    char to[4];
    size_t got = 0;
    int err = 0;
    say(&p, "x");
    fault_errno(FAULT_RECV, EAGAIN);
    fault_errno(FAULT_RECV, EAGAIN);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(fault_count(FAULT_POLL), 2);
    pair_close(&p);
}

TEST(waiting_for_ever_is_polling_without_a_limit)
{
    pair p = pair_open(CP_FOREVER);
    cp_patience patience = cp_patience_of(CP_FOREVER, CP_FOREVER);
    int err = 0;
    say(&p, "x");
    CHECK_EQ(cp_wire_wait(&p.wire, &patience, &err), CP_OK);
    CHECK_EQ(fault_last_argument(FAULT_POLL), -1);
    pair_close(&p);
}

TEST(a_wait_longer_than_poll_can_is_made_of_several)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(CP_NS_PER_S * 86400 * 365, CP_FOREVER);
    int err = 0;
    fault_poll_timeout();
    say(&p, "x");
    CHECK_EQ(cp_wire_wait(&p.wire, &patience, &err), CP_OK);
    CHECK_EQ(fault_count(FAULT_POLL), 2);
    pair_close(&p);
}

TEST(a_wait_is_rounded_up_to_whole_milliseconds)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(1, CP_FOREVER);
    int err = 0;
    fault_clock_stop();
    fault_poll_timeout();
    CHECK_EQ(cp_wire_wait(&p.wire, &patience, &err), CP_E_RTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 1);
    patience = cp_patience_of(CP_NS_PER_S, CP_FOREVER);
    fault_poll_timeout();
    CHECK_EQ(cp_wire_wait(&p.wire, &patience, &err), CP_E_RTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 1000);
    patience = cp_patience_of(CP_NS_PER_S + 1, CP_FOREVER);
    fault_poll_timeout();
    CHECK_EQ(cp_wire_wait(&p.wire, &patience, &err), CP_E_RTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 1001);
    pair_close(&p);
}

TEST(a_wait_ends_when_the_peer_closes)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    int err = 0;
    shutdown(p.peer, SHUT_RDWR);
    CHECK_EQ(cp_wire_wait(&p.wire, &patience, &err), CP_OK);
    pair_close(&p);
}

TEST(a_peek_takes_nothing)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char byte = 0, to[4];
    size_t got = 0;
    int err = 0;
    CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_QUIET);
    say(&p, "xy");
    CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_DATA);
    CHECK_EQ(byte, 'x');
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(got, 2);
    CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_QUIET);
    pair_close(&p);
}

TEST(a_peek_sees_the_end_of_the_stream)
{
    pair p = pair_open(MINUTE);
    char byte = 0;
    shutdown(p.peer, SHUT_WR);
    errno = EINTR; /* of something before */
    CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_CLOSED);
    pair_close(&p);
}

TEST(a_peek_sees_bytes_before_the_end_of_the_stream)
{
    pair p = pair_open(MINUTE);
    char byte = 0;
    say(&p, "x");
    shutdown(p.peer, SHUT_WR);
    CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_DATA);
    pair_close(&p);
}

TEST(a_peek_is_not_disturbed_by_signals)
{
    pair p = pair_open(MINUTE);
    char byte = 0;
    fault_errno(FAULT_RECV, EINTR);
    fault_errno(FAULT_RECV, EINTR);
    CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_QUIET);
    CHECK_EQ(fault_count(FAULT_RECV), 3);
    pair_close(&p);
}

TEST(any_error_of_a_peek_is_a_closed_stream)
{
    const int errors[] = {ECONNRESET, ETIMEDOUT, EBADF, ENOTCONN, EIO};
    pair p = pair_open(MINUTE);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        char byte = 0;
        fault_errno(FAULT_RECV, errors[i]);
        CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_CLOSED);
    }
    fault_errno(FAULT_RECV, EAGAIN);
    CHECK_EQ(cp_wire_peek(&p.wire, &(char){0}), CP_PEEK_QUIET);
    pair_close(&p);
}

TEST(a_peek_of_a_blocking_socket_does_not_block)
{
    pair p = pair_open(CP_FOREVER);
    char byte = 0;
    CHECK_EQ(fcntl(p.wire.fd, F_GETFL) & O_NONBLOCK, 0);
    CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_QUIET);
    pair_close(&p);
}

/* -- Receiving what is there, and waiting for either ---------------------------- */

TEST(a_try_takes_what_is_there)
{
    pair p = pair_open(CP_FOREVER);
    char to[4];
    struct iovec iov = {to, sizeof to};
    size_t got = 0;
    int err = 0;
    CHECK_EQ(cp_wire_try_recv(&p.wire, &iov, &got, &err), CP_AGAIN);
    CHECK_EQ(got, 0);
    say(&p, "hello");
    CHECK_EQ(cp_wire_try_recv(&p.wire, &iov, &got, &err), CP_OK);
    CHECK_EQ(got, 4);
    CHECK_EQ(fault_last_argument(FAULT_RECV), MSG_DONTWAIT);
    CHECK_EQ(fault_count(FAULT_POLL), 0);
    pair_close(&p);
}

TEST(a_try_tells_of_the_end_of_signals_and_errors)
{
    pair p = pair_open(MINUTE);
    char to[4];
    struct iovec iov = {to, sizeof to};
    size_t got = 0;
    int err = 0;
    fault_errno(FAULT_RECV, EINTR);
    CHECK_EQ(cp_wire_try_recv(&p.wire, &iov, &got, &err), CP_E_INTR);
    fault_errno(FAULT_RECV, ECONNRESET);
    CHECK_EQ(cp_wire_try_recv(&p.wire, &iov, &got, &err), CP_E_READ);
    CHECK_EQ(err, ECONNRESET);
    shutdown(p.peer, SHUT_WR);
    CHECK_EQ(cp_wire_try_recv(&p.wire, &iov, &got, &err), CP_E_EOF);
    CHECK_EQ(got, 0);
    pair_close(&p);
}

TEST(a_wait_for_either_ends_when_the_peer_takes_or_says_something)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    int err = 0;
    CHECK_EQ(cp_wire_wait_either(&p.wire, &patience, &err), CP_OK); /* it may be sent */
    pair_fill(&p);
    say(&p, "x");
    CHECK_EQ(cp_wire_wait_either(&p.wire, &patience, &err), CP_OK); /* it may be read */
    shutdown(p.peer, SHUT_RDWR);
    CHECK_EQ(cp_wire_wait_either(&p.wire, &patience, &err), CP_OK); /* both will tell */
    pair_close(&p);
}

TEST(a_wait_for_either_that_is_in_vain_is_a_write_timeout)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(20 * CP_NS_PER_MS, CP_FOREVER);
    int err = 0;
    pair_fill(&p);
    fault_clock_stop();
    CHECK_EQ(cp_wire_wait_either(&p.wire, &patience, &err), CP_E_WTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 20);
    fault_clock_advance(CP_NS_PER_S);
    CHECK_EQ(cp_wire_wait_either(&p.wire, &patience, &err), CP_E_WTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 0);
    pair_close(&p);
}

TEST(a_wait_for_either_tells_of_signals_and_errors)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    int err = 0;
    fault_errno(FAULT_POLL, EINTR);
    CHECK_EQ(cp_wire_wait_either(&p.wire, &patience, &err), CP_E_INTR);
    CHECK(patience.until > 0);
    fault_errno(FAULT_POLL, ENOMEM);
    CHECK_EQ(cp_wire_wait_either(&p.wire, &patience, &err), CP_E_WRITE);
    CHECK_EQ(err, ENOMEM);
    pair_close(&p);
}

TEST(a_wait_for_either_longer_than_poll_can_ends_early)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(CP_NS_PER_S * 86400 * 365, CP_FOREVER);
    int err = 0;
    fault_poll_timeout();
    CHECK_EQ(cp_wire_wait_either(&p.wire, &patience, &err), CP_AGAIN);
    pair_close(&p);
}

TEST(what_was_received_is_counted_by_either_verb)
{
    pair p = pair_open(MINUTE);
    cp_patience patience = cp_patience_of(MINUTE, CP_FOREVER);
    char to[4], byte;
    struct iovec iov = {to, sizeof to};
    size_t got = 0;
    int err = 0;
    say(&p, "abcdefg");
    CHECK_EQ(cp_wire_peek(&p.wire, &byte), CP_PEEK_DATA);
    CHECK_EQ(p.wire.received_bytes, 0);
    CHECK_EQ(receive(&p, to, sizeof to, &got, &patience, &err), CP_OK);
    CHECK_EQ(p.wire.received_bytes, 4);
    CHECK_EQ(cp_wire_try_recv(&p.wire, &iov, &got, &err), CP_OK);
    CHECK_EQ(p.wire.received_bytes, 7);
    pair_close(&p);
}

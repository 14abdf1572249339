/* cp_exchange: each way a step may end, and what was found before it ended. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cp_exchange.h"
#include "cp_pair.h"
#include "cp_test.h"

#define PING "*1\r\n$4\r\nPING\r\n"
#define PUSH ">2\r\n$7\r\nmessage\r\n:1\r\n"

/* An exchange under test, and the server's end of its socket. */
typedef struct rig {
    cp_exchange x;
    pair p;
    cp_buf in;
    cp_scan scan;
    struct iovec iov[4];
    int err;
} rig;

static rig *
rig_open(void)
{
    rig *r = calloc(1, sizeof *r);
    if (r == NULL)
        abort();
    r->p = pair_open(MINUTE);
    cp_scan_init(&r->scan, 512, 1 << 20);
    r->x.iov = r->iov;
    r->x.enough = 65536;
    r->x.big = 16384;
    r->x.sending = r->x.reading = cp_patience_of(MINUTE, CP_FOREVER);
    return r;
}

static void
rig_close(rig *r)
{
    pair_close(&r->p);
    cp_buf_free(&r->in);
    cp_scan_free(&r->scan);
    free(r);
}

/* Lay out one more piece to send. */
static void
ask(rig *r, const char *text)
{
    r->iov[r->x.count].iov_base = (char *)(uintptr_t)text;
    r->iov[r->x.count++].iov_len = strlen(text);
}

static void
say(const rig *r, const char *text)
{
    CHECK_EQ(write(r->p.peer, text, strlen(text)), strlen(text));
}

static cp_status
step(rig *r)
{
    return cp_exchange_step(&r->x, &r->p.wire, &r->in, &r->scan, &r->err);
}

/* Do what the layer above does with what was found. */
static size_t
consume(rig *r)
{
    size_t replies = r->x.replies;
    cp_buf_consume(&r->in, r->x.whole);
    r->x.wanted -= replies;
    r->x.whole = r->x.replies = 0;
    return replies;
}

/* What has arrived at the peer is exactly this. */
static void
check_arrived(const rig *r, const char *expected)
{
    char got[256];
    ssize_t n = recv(r->p.peer, got, sizeof got, MSG_DONTWAIT);
    CHECK_EQ(n, strlen(expected));
    CHECK(n > 0 && memcmp(got, expected, (size_t)n) == 0);
}

/* -- Whole replies ----------------------------------------------------------- */

TEST(a_step_ends_when_all_wanted_replies_are_whole)
{
    rig *r = rig_open();
    ask(r, PING);
    ask(r, PING);
    r->x.wanted = 2;
    say(r, "+PONG\r\n$2\r\nab\r\n");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 2);
    CHECK_EQ(r->x.whole, 15);
    CHECK_EQ(r->x.count, 0);
    CHECK_EQ(cp_buf_size(&r->in), 15);
    check_arrived(r, PING PING);
    rig_close(r);
}

TEST(bytes_behind_the_wanted_replies_are_left_alone)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    say(r, "+PONG\r\n+STRAY\r\n");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 1);
    CHECK_EQ(r->x.whole, 7);
    CHECK_EQ(cp_buf_size(&r->in), 15);
    rig_close(r);
}

TEST(a_reply_that_comes_byte_by_byte_is_one_reply)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 2;
    say(r, "*2\r\n$3\r\nabc\r\n:12\r\n-ERR no\r\n");
    fault_limit(1);
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 2);
    CHECK_EQ(r->x.whole, 27);
    rig_close(r);
}

TEST(enough_bytes_of_whole_replies_end_a_step)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 4;
    r->x.enough = 8;
    say(r, "+AAA\r\n+BBB\r\n+CCC\r\n+DDD\r\n");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 2);
    CHECK_EQ(r->x.whole, 12);
    CHECK_EQ(consume(r), 2);
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(consume(r), 2);
    CHECK_EQ(r->x.wanted, 0);
    CHECK_EQ(cp_buf_size(&r->in), 0);
    rig_close(r);
}

TEST(pushes_are_found_and_not_counted)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 2;
    say(r, PUSH "+ONE\r\n" PUSH PUSH "+TWO\r\n" PUSH);
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 2);
    CHECK_EQ(r->x.whole, 3 * strlen(PUSH) + 12);
    CHECK_EQ(cp_buf_size(&r->in) - r->x.whole, strlen(PUSH));
    rig_close(r);
}

TEST(enough_bytes_of_pushes_end_a_step_too)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    r->x.enough = 2 * strlen(PUSH);
    say(r, PUSH PUSH PUSH "+ONE\r\n");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 0);
    CHECK_EQ(r->x.whole, 2 * strlen(PUSH));
    consume(r);
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 1);
    rig_close(r);
}

TEST(replies_that_are_in_the_buffer_need_no_receive)
{
    rig *r = rig_open();
    r->x.wanted = 1;
    CHECK_EQ(cp_buf_reserve(&r->in, 16), CP_OK);
    memcpy(cp_buf_end(&r->in), "+ONE\r\n+TWO\r\n", 12);
    cp_buf_commit(&r->in, 12);
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.whole, 6);
    CHECK_EQ(fault_count(FAULT_RECV), 0);
    rig_close(r);
}

/* -- More to send --------------------------------------------------------------- */

TEST(a_step_ends_when_all_is_sent_and_there_is_more)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    r->x.more = 1;
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.count, 0);
    CHECK_EQ(r->x.replies, 0);
    CHECK_EQ(fault_count(FAULT_POLL), 0);
    CHECK_EQ(fault_last_argument(FAULT_RECV), MSG_DONTWAIT);
    check_arrived(r, PING);
    rig_close(r);
}

TEST(replies_that_come_before_all_is_sent_are_taken_in)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    r->x.more = 1;
    say(r, "+ONE\r\n+TW");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.count, 0);
    r->x.iov = r->iov;
    r->x.more = 0;
    r->x.wanted = 2;
    ask(r, PING);
    say(r, "O\r\n");
    CHECK_EQ(step(r), CP_OK);
    if (r->x.replies < 2) {
        consume(r);
        CHECK_EQ(step(r), CP_OK);
    }
    CHECK_EQ(r->x.count, 0);
    check_arrived(r, PING PING);
    rig_close(r);
}

TEST(a_step_that_found_all_answers_goes_on_sending)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 0; /* all that was encoded is answered already, by a hasty server */
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.count, 0);
    check_arrived(r, PING);
    rig_close(r);
}

TEST(short_sends_go_on_where_they_stopped)
{
    rig *r = rig_open();
    ask(r, PING);
    ask(r, PING);
    r->x.wanted = 1;
    r->x.more = 1;
    fault_limit(3);
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.count, 0);
    fault_limit(0);
    check_arrived(r, PING PING);
    rig_close(r);
}

TEST(a_peer_that_takes_nothing_is_read_from)
{
    rig *r = rig_open();
    pair_fill(&r->p);
    ask(r, PING);
    r->x.wanted = 2;
    r->x.enough = 6;
    say(r, "+ONE\r\n+T");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 1);
    CHECK_EQ(r->x.count, 1);
    CHECK_EQ(fault_count(FAULT_POLL), 0);
    rig_close(r);
}

/* -- Large strings -------------------------------------------------------------- */

TEST(the_scanner_stands_before_a_large_string)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 3;
    say(r, "+ONE\r\n$100000\r\nabc");
    CHECK_EQ(step(r), CP_BIG);
    CHECK_EQ(r->x.replies, 1);
    CHECK_EQ(r->x.whole, 6);
    CHECK_EQ(r->scan.body, 9);
    CHECK_EQ(r->scan.body_len, 100000);
    consume(r);
    CHECK(memcmp(cp_buf_head(&r->in), "$100000\r\nabc", 12) == 0);
    rig_close(r);
}

TEST(a_large_string_that_is_whole_already_is_a_reply)
{
    rig *r = rig_open();
    r->x.wanted = 1;
    r->x.big = 2;
    say(r, "$3\r\nabc\r\n");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 1);
    rig_close(r);
}

TEST(a_string_that_is_not_large_is_waited_for)
{
    rig *r = rig_open();
    r->x.wanted = 1;
    r->x.big = 3;
    fault_limit(2);
    say(r, "$3\r\nabc\r\n");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.whole, 9);
    rig_close(r);
}

TEST(a_large_string_within_an_array_is_part_of_its_reply)
{
    rig *r = rig_open();
    r->x.wanted = 1;
    r->x.big = 1;
    fault_limit(5);
    say(r, "*2\r\n$3\r\nabc\r\n$2\r\nde\r\n");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.whole, 21);
    rig_close(r);
}

TEST(enough_whole_bytes_come_before_a_large_string)
{
    rig *r = rig_open();
    r->x.wanted = 3;
    r->x.enough = 6;
    say(r, "+ONE\r\n$100000\r\nabc");
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(consume(r), 1);
    CHECK_EQ(step(r), CP_BIG);
    CHECK_EQ(r->x.replies, 0);
    CHECK_EQ(r->scan.body, 9);
    rig_close(r);
}

/* -- Errors --------------------------------------------------------------------- */

TEST(the_end_of_the_stream_leaves_what_was_found)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 3;
    say(r, "+ONE\r\n+TWO\r\n+THR");
    shutdown(r->p.peer, SHUT_WR);
    CHECK_EQ(step(r), CP_E_EOF);
    CHECK_EQ(r->x.replies, 2);
    CHECK_EQ(r->x.whole, 12);
    rig_close(r);
}

TEST(the_end_of_the_stream_before_all_is_sent)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    r->x.more = 1;
    shutdown(r->p.peer, SHUT_WR);
    CHECK_EQ(step(r), CP_E_EOF);
    rig_close(r);
}

TEST(bytes_that_are_no_resp_leave_what_was_found)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 3;
    say(r, "+ONE\r\nnonsense\r\n");
    CHECK_EQ(step(r), CP_E_PROTO);
    CHECK_EQ(r->x.replies, 1);
    CHECK_EQ(r->x.whole, 6);
    CHECK_EQ(r->scan.why, CP_WHY_TYPE);
    rig_close(r);
}

TEST(a_peer_that_has_gone_is_a_write_error)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    close(r->p.peer);
    r->p.peer = dup(r->p.wire.fd);
    CHECK_EQ(step(r), CP_E_WRITE);
    CHECK_EQ(r->err, EPIPE);
    rig_close(r);
}

TEST(errors_of_send_recv_and_poll_are_told)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    fault_errno(FAULT_SEND, EHOSTUNREACH);
    CHECK_EQ(step(r), CP_E_WRITE);
    CHECK_EQ(r->err, EHOSTUNREACH);
    fault_errno(FAULT_RECV, ECONNRESET);
    CHECK_EQ(step(r), CP_E_READ);
    CHECK_EQ(r->err, ECONNRESET);
    pair_fill(&r->p);
    r->x.iov = r->iov;
    r->x.count = 0;
    ask(r, PING);
    fault_errno(FAULT_POLL, ENOMEM);
    CHECK_EQ(step(r), CP_E_WRITE);
    CHECK_EQ(r->err, ENOMEM);
    rig_close(r);
}

TEST(no_memory_leaves_all_as_it_was)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    say(r, "+ONE\r\n");
    fault_errno(FAULT_ALLOC, ENOMEM);
    CHECK_EQ(step(r), CP_E_NOMEM);
    CHECK_EQ(r->x.whole, 0);
    CHECK_EQ(step(r), CP_OK);
    CHECK_EQ(r->x.replies, 1);
    rig_close(r);
}

TEST(no_memory_for_deep_replies_leaves_what_was_found)
{
    rig *r = rig_open();
    r->x.wanted = 2;
    CHECK_EQ(cp_buf_reserve(&r->in, CP_EXCHANGE_ROOM + 1), CP_OK);
    say(r, "+ONE\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n");
    fault_errno(FAULT_ALLOC, ENOMEM);
    CHECK_EQ(step(r), CP_E_NOMEM);
    CHECK_EQ(r->x.replies, 1);
    CHECK_EQ(r->x.whole, 6);
    rig_close(r);
}

/* -- Signals -------------------------------------------------------------------- */

TEST(a_signal_gives_the_caller_the_word_and_the_step_goes_on)
{
    const fault_call calls[] = {FAULT_SEND, FAULT_RECV};
    for (size_t i = 0; i < 2; i++) {
        rig *r = rig_open();
        ask(r, PING);
        r->x.wanted = 1;
        say(r, "+ONE\r\n");
        fault_errno(calls[i], EINTR);
        CHECK_EQ(step(r), CP_E_INTR);
        CHECK_EQ(step(r), CP_OK);
        CHECK_EQ(r->x.replies, 1);
        check_arrived(r, PING);
        rig_close(r);
    }
}

TEST(a_signal_amid_a_short_send_sends_no_byte_twice)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    r->x.more = 1;
    fault_short(FAULT_SEND, 5);
    fault_errno(FAULT_SEND, EINTR);
    CHECK_EQ(step(r), CP_E_INTR);
    CHECK_EQ(r->x.count, 1);
    CHECK_EQ(step(r), CP_OK);
    check_arrived(r, PING);
    rig_close(r);
}

TEST(a_signal_while_the_peer_takes_nothing_is_told)
{
    rig *r = rig_open();
    pair_fill(&r->p);
    ask(r, PING);
    r->x.wanted = 1;
    fault_errno(FAULT_POLL, EINTR);
    CHECK_EQ(step(r), CP_E_INTR);
    CHECK(r->x.sending.until > 0);
    rig_close(r);
}

TEST(a_storm_of_signals_does_not_prolong_a_send)
{
    rig *r = rig_open();
    pair_fill(&r->p);
    ask(r, PING);
    r->x.wanted = 1;
    r->x.sending = cp_patience_of(10 * CP_NS_PER_S, CP_FOREVER);
    for (int second = 0; second < 10; second++) {
        fault_errno(FAULT_POLL, EINTR);
        CHECK_EQ(step(r), CP_E_INTR);
        fault_clock_advance(CP_NS_PER_S);
    }
    CHECK_EQ(step(r), CP_E_WTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 0);
    rig_close(r);
}

TEST(a_storm_of_signals_does_not_prolong_a_read)
{
    rig *r = rig_open();
    r->x.wanted = 1;
    r->x.reading = cp_patience_of(10 * CP_NS_PER_S, CP_FOREVER);
    for (int second = 0; second < 10; second++) {
        fault_errno(FAULT_RECV, EAGAIN);
        fault_errno(FAULT_POLL, EINTR);
        CHECK_EQ(step(r), CP_E_INTR);
        fault_clock_advance(CP_NS_PER_S);
    }
    CHECK_EQ(step(r), CP_E_RTIMEOUT);
    rig_close(r);
}

/* -- Time ------------------------------------------------------------------------ */

TEST(a_peer_that_neither_takes_nor_says_anything_is_a_write_timeout)
{
    rig *r = rig_open();
    pair_fill(&r->p);
    ask(r, PING);
    r->x.wanted = 1;
    fault_clock_stop();
    fault_poll_timeout();
    CHECK_EQ(step(r), CP_E_WTIMEOUT);
    CHECK_EQ(fault_last_argument(FAULT_POLL), 60000);
    CHECK_EQ(r->x.count, 1);
    rig_close(r);
}

TEST(a_peer_that_says_nothing_is_a_read_timeout)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    r->x.reading = cp_patience_of(CP_NS_PER_S, CP_FOREVER);
    fault_poll_timeout();
    CHECK_EQ(step(r), CP_E_RTIMEOUT);
    check_arrived(r, PING);
    rig_close(r);
}

TEST(a_peer_that_says_something_gets_more_time_to_take)
{
    rig *r = rig_open();
    pair_fill(&r->p);
    ask(r, PING);
    r->x.wanted = 9;
    r->x.enough = 1;
    for (int i = 0; i < 5; i++) {
        fault_errno(FAULT_RECV, EAGAIN);
        fault_errno(FAULT_POLL, EINTR);
        CHECK_EQ(step(r), CP_E_INTR);
        fault_clock_advance(MINUTE - CP_NS_PER_S);
        say(r, "+ONE\r\n");
        CHECK_EQ(step(r), CP_OK);
        CHECK_EQ(consume(r), 1);
        CHECK_EQ(r->x.sending.until, 0);
    }
    rig_close(r);
}

TEST(bytes_that_go_out_give_the_peer_more_time)
{
    rig *r = rig_open();
    ask(r, PING);
    r->x.wanted = 1;
    for (int i = 0; i < 3; i++) {
        fault_short(FAULT_SEND, 2);
        fault_errno(FAULT_SEND, EAGAIN);
        fault_errno(FAULT_POLL, EINTR);
        CHECK_EQ(step(r), CP_E_INTR);
        fault_clock_advance(MINUTE - CP_NS_PER_S);
    }
    CHECK_EQ(r->iov[0].iov_len, strlen(PING) - 6);
    fault_errno(FAULT_SEND, EAGAIN);
    fault_clock_advance(CP_NS_PER_S);
    fault_poll_timeout();
    CHECK_EQ(step(r), CP_E_WTIMEOUT);
    rig_close(r);
}

TEST(each_reply_gives_the_peer_more_time_to_say_the_next)
{
    rig *r = rig_open();
    r->x.wanted = 9;
    r->x.enough = 1;
    for (int i = 0; i < 5; i++) {
        fault_errno(FAULT_RECV, EAGAIN);
        fault_errno(FAULT_POLL, EINTR);
        CHECK_EQ(step(r), CP_E_INTR);
        fault_clock_advance(MINUTE - CP_NS_PER_S);
        say(r, "+ONE\r\n");
        CHECK_EQ(step(r), CP_OK);
        CHECK_EQ(consume(r), 1);
        CHECK_EQ(r->x.reading.until, 0);
    }
    rig_close(r);
}

/* -- Both at once ---------------------------------------------------------------- */

enum { ROUNDS = 3000, BYTES = 700 };

/* A server that answers each request before it reads the next, as Redis does, and
 * whose buffers are small. */
static void *
echo(void *argument)
{
    int fd = *(int *)argument;
    char block[BYTES];
    for (int i = 0; i < ROUNDS; i++)
        for (size_t have = 0; have < BYTES;) {
            ssize_t n = read(fd, block + have, BYTES - have);
            if (n <= 0)
                return NULL;
            for (size_t at = have, end = have + (size_t)n; at < end;) {
                ssize_t sent = write(fd, block + at, end - at);
                if (sent <= 0)
                    return NULL;
                at += (size_t)sent;
            }
            have += (size_t)n;
        }
    return NULL;
}

TEST(two_full_socket_buffers_do_not_wait_for_each_other)
{
    rig *r = rig_open();
    const int small = 4096;
    char *all = malloc((size_t)ROUNDS * BYTES);
    pthread_t thread;
    size_t replies = 0;
    for (int i = 0; i < ROUNDS; i++) { /* what is asked is answered: strings of 692 bytes */
        char *one = all + (size_t)i * BYTES;
        memset(one, 'a' + i % 26, BYTES);
        memcpy(one, "$692\r\n", 6);
        memcpy(one + BYTES - 2, "\r\n", 2);
    }
    for (int name = 0; name < 2; name++) {
        int option = name ? SO_RCVBUF : SO_SNDBUF;
        CHECK_EQ(setsockopt(r->p.wire.fd, SOL_SOCKET, option, &small, sizeof small), 0);
        CHECK_EQ(setsockopt(r->p.peer, SOL_SOCKET, option, &small, sizeof small), 0);
    }
    CHECK_EQ(pthread_create(&thread, NULL, echo, &r->p.peer), 0);
    r->iov[0] = (struct iovec){all, (size_t)ROUNDS * BYTES};
    r->x.count = 1;
    r->x.wanted = ROUNDS;
    while (r->x.wanted > 0) {
        cp_status st = step(r);
        CHECK_EQ(st, CP_OK);
        if (st != CP_OK)
            break;
        for (size_t at = 0; at < r->x.whole; at += BYTES, replies++)
            CHECK_EQ(cp_buf_head(&r->in)[at + 6], 'a' + replies % 26);
        consume(r);
        CHECK(r->in.cap <= 8 * CP_EXCHANGE_ROOM);
    }
    CHECK_EQ(replies, ROUNDS);
    CHECK_EQ(r->x.count, 0);
    pthread_join(thread, NULL);
    free(all);
    rig_close(r);
}

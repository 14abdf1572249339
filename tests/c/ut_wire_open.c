/* cp_wire: how a descriptor is set up, and what other threads may do to it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "cp_faults.h"
#include "cp_test.h"
#include "cp_wire.h"

#define MINUTE (60 * CP_NS_PER_S)

static void
make_pair(int fd[2])
{
    fault_clear();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) != 0)
        abort();
}

static void
close_pair(const int fd[2])
{
    close(fd[0]);
    close(fd[1]);
    fault_clear();
}

static int64_t
rcvtimeo_us(int fd)
{
    struct timeval tv = {0, 0};
    socklen_t size = sizeof tv;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &size), 0);
    return (int64_t)tv.tv_sec * 1000000 + tv.tv_usec;
}

TEST(a_descriptor_is_made_blocking_with_the_kernels_timeout)
{
    int fd[2];
    cp_wire w;
    make_pair(fd);
    CHECK_EQ(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
    cp_wire_open(&w, fd[0], 2 * CP_NS_PER_S + 500 * CP_NS_PER_MS);
    CHECK_EQ(w.fd, fd[0]);
    CHECK_EQ(fcntl(fd[0], F_GETFL) & O_NONBLOCK, 0);
    CHECK_EQ(rcvtimeo_us(fd[0]), 2500000);
    CHECK_EQ(w.rcvtimeo_ns, 2 * CP_NS_PER_S + 500 * CP_NS_PER_MS);
    close_pair(fd);
}

TEST(for_ever_is_no_timeout)
{
    int fd[2];
    cp_wire w;
    make_pair(fd);
    cp_wire_open(&w, fd[0], CP_FOREVER);
    CHECK_EQ(rcvtimeo_us(fd[0]), 0);
    CHECK_EQ(w.rcvtimeo_ns, CP_FOREVER);
    close_pair(fd);
}

TEST(a_timeout_below_the_kernels_unit_is_not_for_ever)
{
    int fd[2];
    cp_wire w;
    make_pair(fd);
    cp_wire_open(&w, fd[0], 1);
    CHECK(rcvtimeo_us(fd[0]) > 0);
    close_pair(fd);
}

TEST(a_descriptor_that_is_to_be_non_blocking_is_left_so)
{
    int fd[2];
    cp_wire w;
    make_pair(fd);
    CHECK_EQ(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
    cp_wire_open(&w, fd[0], 0);
    CHECK(fcntl(fd[0], F_GETFL) & O_NONBLOCK);
    CHECK_EQ(w.rcvtimeo_ns, -1);
    close_pair(fd);
}

TEST(other_flags_of_the_descriptor_are_kept)
{
    int fd[2];
    cp_wire w;
    make_pair(fd);
    CHECK_EQ(fcntl(fd[0], F_SETFL, O_NONBLOCK | O_APPEND), 0);
    cp_wire_open(&w, fd[0], MINUTE);
    CHECK_EQ(fcntl(fd[0], F_GETFL) & (O_NONBLOCK | O_APPEND), O_APPEND);
    close_pair(fd);
}

static void
check_times_out(cp_wire *w)
{
    cp_patience patience = cp_patience_of(20 * CP_NS_PER_MS, CP_FOREVER);
    char to[4];
    struct iovec iov = {to, sizeof to};
    size_t got = 0;
    int err = 0;
    int64_t begun = cp_clock_now();
    CHECK_EQ(cp_wire_recv(w, &iov, 1, &got, &patience, &err), CP_E_RTIMEOUT);
    CHECK(cp_clock_now() - begun >= 15 * CP_NS_PER_MS);
}

TEST(without_the_kernels_timeout_poll_keeps_the_time)
{
    int fd[2];
    cp_wire w;
    make_pair(fd);
    fault_errno(FAULT_SETSOCKOPT, ENOPROTOOPT);
    cp_wire_open(&w, fd[0], 20 * CP_NS_PER_MS);
    CHECK_EQ(w.rcvtimeo_ns, -1);
    check_times_out(&w);
    CHECK_EQ(fault_count(FAULT_POLL), 1);
    close_pair(fd);
}

TEST(a_descriptor_that_stays_non_blocking_is_polled)
{
    int fd[2];
    cp_wire w;
    make_pair(fd);
    CHECK_EQ(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
    fault_errno(FAULT_FCNTL, EINVAL);
    cp_wire_open(&w, fd[0], 20 * CP_NS_PER_MS);
    CHECK(fcntl(fd[0], F_GETFL) & O_NONBLOCK);
    fault_errno(FAULT_FCNTL, EINVAL);
    check_times_out(&w);
    CHECK_EQ(fault_count(FAULT_POLL), 1);
    close_pair(fd);
}

typedef struct reader {
    cp_wire wire;
    int64_t idle_ns;
    cp_status status;
    size_t got;
    _Atomic int done;
} reader;

static void *
reader_run(void *argument)
{
    reader *r = argument;
    cp_patience patience = cp_patience_of(r->idle_ns, CP_FOREVER);
    char to[64];
    struct iovec iov = {to, sizeof to};
    int err = 0;
    r->status = cp_wire_recv(&r->wire, &iov, 1, &r->got, &patience, &err);
    atomic_store(&r->done, 1);
    return NULL;
}

TEST(a_shutdown_by_another_thread_ends_a_read_that_is_going_on)
{
    int fd[2];
    reader r = {.idle_ns = CP_FOREVER};
    pthread_t thread;
    make_pair(fd);
    cp_wire_open(&r.wire, fd[0], CP_FOREVER);
    CHECK_EQ(pthread_create(&thread, NULL, reader_run, &r), 0);
    shutdown(fd[0], SHUT_RDWR);
    pthread_join(thread, NULL);
    CHECK_EQ(r.status, CP_E_EOF);
    close_pair(fd);
}

TEST(settimeout_by_another_thread_is_never_taken_for_a_timeout)
{
    for (int round = 0; round < cp_test_rounds(50); round++) {
        int fd[2];
        reader r = {.idle_ns = MINUTE};
        pthread_t thread;
        make_pair(fd);
        cp_wire_open(&r.wire, fd[0], MINUTE);
        CHECK_EQ(pthread_create(&thread, NULL, reader_run, &r), 0);
        for (int i = 0; i < 20; i++)
            CHECK_EQ(fcntl(fd[0], F_SETFL, i % 2 ? O_NONBLOCK : 0), 0);
        CHECK_EQ(atomic_load(&r.done), 0);
        CHECK_EQ(write(fd[1], "x", 1), 1);
        pthread_join(thread, NULL);
        CHECK_EQ(r.status, CP_OK);
        CHECK_EQ(r.got, 1);
        close_pair(fd);
    }
}

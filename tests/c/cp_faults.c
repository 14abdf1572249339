/* The wrapped libc functions; the linker turns f into __wrap_f and the real one into
 * __real_f. */
#define _GNU_SOURCE
#include "cp_faults.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

typedef struct fault_step {
    int err;        /* FAULT_PASS: none */
    size_t limit;   /* 0: none */
    int timed_out;
} fault_step;

typedef struct fault_script {
    fault_step step[FAULT_STEPS];
    int steps, at;
    int calls, argument;
} fault_script;

static _Thread_local fault_script script[FAULT_CALLS];
static _Thread_local size_t byte_limit;
static _Thread_local int64_t clock_offset_ns;
static _Thread_local struct timespec clock_stopped_at; /* zero: it runs */

ssize_t __real_recv(int fd, void *to, size_t size, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __real_send(int fd, const void *from, size_t size, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
int __real_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int __real_fcntl(int fd, int command, ...);
int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
int __real_clock_gettime(clockid_t id, struct timespec *now);

ssize_t __wrap_recv(int fd, void *to, size_t size, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_send(int fd, const void *from, size_t size, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
int __wrap_clock_gettime(clockid_t id, struct timespec *now);

static void
add(fault_call call, int err, size_t limit, int timed_out)
{
    fault_script *s = &script[call];
    if (s->steps == FAULT_STEPS)
        __builtin_trap();
    s->step[s->steps++] = (fault_step){err, limit, timed_out};
}

void
fault_errno(fault_call call, int err)
{
    add(call, err, 0, 0);
}

void
fault_short(fault_call call, size_t bytes)
{
    add(call, FAULT_PASS, bytes, 0);
}

void
fault_poll_timeout(void)
{
    add(FAULT_POLL, FAULT_PASS, 0, 1);
}

void
fault_limit(size_t bytes)
{
    byte_limit = bytes;
}

void
fault_clock_advance(int64_t ns)
{
    clock_offset_ns += ns;
}

void
fault_clock_stop(void)
{
    __real_clock_gettime(CLOCK_MONOTONIC, &clock_stopped_at);
}

void
fault_clear(void)
{
    memset(script, 0, sizeof script);
    memset(&clock_stopped_at, 0, sizeof clock_stopped_at);
    byte_limit = 0;
    clock_offset_ns = 0;
}

int
fault_left(fault_call call)
{
    return script[call].steps - script[call].at;
}

int
fault_count(fault_call call)
{
    return script[call].calls;
}

int
fault_last_argument(fault_call call)
{
    return script[call].argument;
}

/* What happens to this call; `argument` is remembered. */
static fault_step
take(fault_call call, int argument)
{
    fault_step none = {FAULT_PASS, byte_limit, 0};
    fault_script *s = &script[call];
    s->calls++;
    s->argument = argument;
    if (s->at == s->steps)
        return none;
    return s->step[s->at++];
}

static size_t
at_most(size_t size, size_t limit)
{
    return limit != 0 && limit < size ? limit : size;
}

/* A copy of the vector that holds `limit` bytes at most. */
static void
cut(const struct msghdr *msg, size_t limit, struct iovec *iov, struct msghdr *cut_msg)
{
    size_t count = 0;
    *cut_msg = *msg;
    for (; count < (size_t)msg->msg_iovlen && limit > 0; count++) {
        iov[count] = msg->msg_iov[count];
        iov[count].iov_len = at_most(iov[count].iov_len, limit);
        limit -= iov[count].iov_len;
    }
    cut_msg->msg_iov = iov;
    cut_msg->msg_iovlen = count;
}

ssize_t
__wrap_recv(int fd, void *to, size_t size, int flags)
{
    fault_step step = take(FAULT_RECV, flags);
    if (step.err != FAULT_PASS) {
        errno = step.err;
        return -1;
    }
    return __real_recv(fd, to, at_most(size, step.limit), flags);
}

ssize_t
__wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
    fault_step step = take(FAULT_RECV, flags);
    struct iovec iov[1024];
    struct msghdr short_msg;
    if (step.err != FAULT_PASS) {
        errno = step.err;
        return -1;
    }
    if (step.limit == 0)
        return __real_recvmsg(fd, msg, flags);
    cut(msg, step.limit, iov, &short_msg);
    return __real_recvmsg(fd, &short_msg, flags);
}

ssize_t
__wrap_send(int fd, const void *from, size_t size, int flags)
{
    fault_step step = take(FAULT_SEND, flags);
    if (step.err != FAULT_PASS) {
        errno = step.err;
        return -1;
    }
    return __real_send(fd, from, at_most(size, step.limit), flags);
}

ssize_t
__wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    fault_step step = take(FAULT_SEND, flags);
    struct iovec iov[1024];
    struct msghdr short_msg;
    if (step.err != FAULT_PASS) {
        errno = step.err;
        return -1;
    }
    if (step.limit == 0)
        return __real_sendmsg(fd, msg, flags);
    cut(msg, step.limit, iov, &short_msg);
    return __real_sendmsg(fd, &short_msg, flags);
}

int
__wrap_poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    fault_step step = take(FAULT_POLL, timeout_ms);
    if (step.err != FAULT_PASS) {
        errno = step.err;
        return -1;
    }
    return step.timed_out ? 0 : __real_poll(fds, n, timeout_ms);
}

int
__wrap_fcntl(int fd, int command, ...)
{
    va_list more;
    fault_step step = take(FAULT_FCNTL, command);
    va_start(more, command);
    int value = va_arg(more, int);
    va_end(more);
    if (step.err != FAULT_PASS) {
        errno = step.err;
        return -1;
    }
    return __real_fcntl(fd, command, value);
}

int
__wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    fault_step step = take(FAULT_SETSOCKOPT, name);
    if (step.err != FAULT_PASS) {
        errno = step.err;
        return -1;
    }
    return __real_setsockopt(fd, level, name, value, size);
}

void *
__wrap_malloc(size_t size)
{
    return take(FAULT_ALLOC, 0).err != FAULT_PASS ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t n, size_t size)
{
    return take(FAULT_ALLOC, 0).err != FAULT_PASS ? NULL : __real_calloc(n, size);
}

void *
__wrap_realloc(void *old, size_t size)
{
    return take(FAULT_ALLOC, 0).err != FAULT_PASS ? NULL : __real_realloc(old, size);
}

int
__wrap_clock_gettime(clockid_t id, struct timespec *now)
{
    int rc = __real_clock_gettime(id, now);
    if (clock_stopped_at.tv_sec != 0 && id == CLOCK_MONOTONIC)
        *now = clock_stopped_at;
    int64_t ns = (int64_t)now->tv_nsec + clock_offset_ns;
    if (rc == 0 && clock_offset_ns != 0) {
        now->tv_sec += (time_t)(ns / 1000000000);
        now->tv_nsec = (long)(ns % 1000000000);
    }
    return rc;
}

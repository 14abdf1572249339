/* System calls that fail on order: to be preloaded into a process under test.
 *
 * Two ways of ordering, both from within the process (tests/syscalls/shim.py):
 * a storm lets a share of all calls fail in ways that a program must not notice,
 * seeded and bounded; an order lets the n-th call of one kind fail with one errno.
 * Only stream sockets are touched, and allocations only where the caller is one of
 * the compiled modules: the interpreter's own are `_testcapi.set_nomemory`'s.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define ORDERS 8
#define IOV 1024
#define RANGES 32

/* Named again in shim.py, in the same order. */
enum call { RECV, PEEK, SEND, POLL, CONNECT, OPTION, FLAGS, ALLOC, CALLS };
enum fault { NONE, INTERRUPTED, WOULD_BLOCK, SHORT, READY, ORDERED, FAULTS };

typedef struct order {
    enum call call;
    long nth;  /* 1: the next call; each takes one off */
    int err;   /* 0: it moves one byte */
} order;

typedef struct verdict {
    enum fault fault;
    int err;       /* INTERRUPTED, WOULD_BLOCK, ORDERED */
    size_t limit;  /* SHORT, ORDERED: bytes to move; 0: all */
} verdict;

static atomic_int armed;        /* a storm or an order is on */
static atomic_int storm_pct;    /* how many of a hundred calls fail */
static atomic_long storm_left;  /* faults it may still inject */
static uint64_t storm_seed;
static atomic_int storm_round, next_thread;
static order orders[ORDERS];
static atomic_int order_lock, n_orders;
static atomic_ulong injected[CALLS][FAULTS], calls[CALLS];
static atomic_ullong trace;     /* a hash of what happened to each call */
static struct { uintptr_t from, to; } core[RANGES];
static int n_core;

static _Thread_local uint64_t chance;
static _Thread_local int chance_round;

static void *
next_of(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

/* The libc's own function; looked up at each call, so there is no start-up order. */
#define REAL(name) ((__typeof__(&name))next_of(#name))

/* -- what happens to a call -------------------------------------------------------- */

static uint64_t
draw(void)
{
    if (chance_round != atomic_load(&storm_round)) {
        chance_round = atomic_load(&storm_round);
        chance = storm_seed + 0x100000001b3u * (uint64_t)atomic_fetch_add(&next_thread, 1);
    }
    uint64_t z = chance += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static verdict
one_of(enum call call)
{
    static const enum fault moving[] = {INTERRUPTED, WOULD_BLOCK, SHORT, SHORT};
    static const enum fault peeking[] = {INTERRUPTED, INTERRUPTED, WOULD_BLOCK, WOULD_BLOCK};
    static const enum fault polling[] = {INTERRUPTED, INTERRUPTED, READY, READY};
    static const enum fault *const by_call[CALLS] = {moving, peeking, moving, polling};
    verdict v = {INTERRUPTED, 0, 0};
    if (by_call[call] != NULL)
        v.fault = by_call[call][draw() % 4];
    if (v.fault == INTERRUPTED)
        v.err = EINTR;
    if (v.fault == WOULD_BLOCK)
        v.err = EAGAIN;
    if (v.fault == SHORT)
        v.limit = 1 + draw() % (draw() % 2 ? 8 : 16384);
    return v;
}

static verdict
of_storm(enum call call)
{
    verdict none = {NONE, 0, 0};
    int pct = atomic_load(&storm_pct) * (call == CONNECT ? 3 : 1); /* there are few */
    if (call > CONNECT || (int)(draw() % 100) >= pct)
        return none;
    return atomic_fetch_sub(&storm_left, 1) > 0 ? one_of(call) : none;
}

static verdict
of_orders(enum call call)
{
    verdict v = {NONE, 0, 0};
    while (atomic_exchange(&order_lock, 1))
        ;
    for (int i = 0; i < atomic_load(&n_orders); i++)
        if (orders[i].call == call && --orders[i].nth == 0) {
            v = (verdict){ORDERED, orders[i].err, orders[i].err == 0};
            break;
        }
    atomic_store(&order_lock, 0);
    return v;
}

static verdict
judge(enum call call)
{
    verdict v = {NONE, 0, 0};
    if (!atomic_load(&armed))
        return v;
    atomic_fetch_add(&calls[call], 1);
    v = of_orders(call);
    if (v.fault == NONE && atomic_load(&storm_pct) > 0)
        v = of_storm(call);
    if (v.fault != NONE)
        atomic_fetch_add(&injected[call][v.fault], 1);
    uint64_t what = call * FAULTS + v.fault + v.limit * 1000;
    atomic_store(&trace, (atomic_load(&trace) ^ what) * 0x100000001b3u);
    return v;
}

static int
is_stream(int fd)
{
    int type = 0, before = errno;
    socklen_t size = sizeof type;
    int found = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
    errno = before;
    return found && type == SOCK_STREAM;
}

static int
is_connected(int fd)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    int before = errno;
    int connected = is_stream(fd) && getpeername(fd, (struct sockaddr *)&peer, &size) == 0;
    errno = before;
    return connected;
}

static verdict
judge_on(enum call call, int fd)
{
    verdict none = {NONE, 0, 0};
    return atomic_load(&armed) && is_stream(fd) ? judge(call) : none;
}

/* Whether the call is not to be made at all; errno is set then. */
static int
fails(verdict v)
{
    if (v.err != 0)
        errno = v.err;
    return v.err != 0;
}

static size_t
at_most(size_t size, size_t limit)
{
    return limit != 0 && limit < size ? limit : size;
}

/* The same vector with `limit` bytes at most. */
static struct msghdr
cut(const struct msghdr *msg, size_t limit, struct iovec *iov)
{
    struct msghdr shorter = *msg;
    size_t count = 0;
    for (; count < msg->msg_iovlen && count < IOV && limit > 0; count++) {
        iov[count] = msg->msg_iov[count];
        iov[count].iov_len = at_most(iov[count].iov_len, limit);
        limit -= iov[count].iov_len;
    }
    shorter.msg_iov = iov;
    shorter.msg_iovlen = count;
    return shorter;
}

/* -- the calls --------------------------------------------------------------------- */

EXPORT ssize_t
recv(int fd, void *to, size_t size, int flags)
{
    verdict v = judge_on(flags & MSG_PEEK ? PEEK : RECV, fd);
    return fails(v) ? -1 : REAL(recv)(fd, to, at_most(size, v.limit), flags);
}

EXPORT ssize_t
recvmsg(int fd, struct msghdr *msg, int flags)
{
    struct iovec iov[IOV];
    verdict v = judge_on(RECV, fd);
    if (fails(v))
        return -1;
    if (v.limit == 0)
        return REAL(recvmsg)(fd, msg, flags);
    struct msghdr shorter = cut(msg, v.limit, iov);
    return REAL(recvmsg)(fd, &shorter, flags);
}

/* OpenSSL's way to receive. */
EXPORT ssize_t
read(int fd, void *to, size_t size)
{
    verdict v = judge_on(RECV, fd);
    return fails(v) ? -1 : REAL(read)(fd, to, at_most(size, v.limit));
}

EXPORT ssize_t
send(int fd, const void *from, size_t size, int flags)
{
    verdict v = judge_on(SEND, fd);
    return fails(v) ? -1 : REAL(send)(fd, from, at_most(size, v.limit), flags);
}

EXPORT ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
    struct iovec iov[IOV];
    verdict v = judge_on(SEND, fd);
    if (fails(v))
        return -1;
    if (v.limit == 0)
        return REAL(sendmsg)(fd, msg, flags);
    struct msghdr shorter = cut(msg, v.limit, iov);
    return REAL(sendmsg)(fd, &shorter, flags);
}

EXPORT ssize_t
write(int fd, const void *from, size_t size)
{
    verdict v = judge_on(SEND, fd);
    return fails(v) ? -1 : REAL(write)(fd, from, at_most(size, v.limit));
}

/* A socket that is still connecting is left alone: no kernel calls it ready before. */
EXPORT int
poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    verdict v = {NONE, 0, 0};
    if (n == 1 && atomic_load(&armed) && is_connected(fds->fd))
        v = judge(POLL);
    if (v.fault == READY) {
        fds->revents = fds->events;
        return 1;
    }
    return fails(v) ? -1 : REAL(poll)(fds, n, timeout_ms);
}

/* A signal does not undo a connect(): it goes on by itself. */
EXPORT int
connect(int fd, const struct sockaddr *address, socklen_t size)
{
    verdict v = judge_on(CONNECT, fd);
    if (v.err != EINTR)
        return fails(v) ? -1 : REAL(connect)(fd, address, size);
    if (REAL(connect)(fd, address, size) == 0 || errno == EINPROGRESS)
        errno = EINTR;
    return -1;
}

EXPORT int
setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    verdict v = judge_on(OPTION, fd);
    return fails(v) ? -1 : REAL(setsockopt)(fd, level, name, value, size);
}

EXPORT int
fcntl(int fd, int command, ...)
{
    va_list more;
    verdict v = judge_on(FLAGS, fd);
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    return fails(v) ? -1 : REAL(fcntl)(fd, command, argument);
}

/* Python's settimeout() comes here. */
EXPORT int
ioctl(int fd, unsigned long request, ...)
{
    va_list more;
    verdict v = {NONE, 0, 0};
    if (request == FIONBIO)
        v = judge_on(FLAGS, fd);
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    return fails(v) ? -1 : REAL(ioctl)(fd, request, argument);
}

/* -- allocations ------------------------------------------------------------------- */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);

static int
runs_out(void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    if (!atomic_load(&armed))
        return 0;
    for (int i = 0; i < n_core; i++)
        if (at >= core[i].from && at < core[i].to)
            return fails(judge(ALLOC));
    return 0;
}

EXPORT void *
malloc(size_t size)
{
    return runs_out(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

EXPORT void *
calloc(size_t n, size_t size)
{
    return runs_out(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

EXPORT void *
realloc(void *old, size_t size)
{
    return runs_out(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size);
}

/* -- orders ------------------------------------------------------------------------ */

static int
note_core(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    if (strstr(info->dlpi_name, "/cpool/_") == NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum && n_core < RANGES; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
            continue;
        core[n_core].from = info->dlpi_addr + part->p_vaddr;
        core[n_core].to = core[n_core].from + part->p_memsz;
        n_core++;
    }
    return 0;
}

/* All orders and the storm are over; what was counted stays. */
EXPORT void
shim_calm(void)
{
    atomic_store(&armed, 0);
    atomic_store(&storm_pct, 0);
    atomic_store(&n_orders, 0);
}

EXPORT void
shim_storm(uint64_t seed, int percent, long most)
{
    storm_seed = seed;
    atomic_store(&next_thread, 0);
    atomic_fetch_add(&storm_round, 1);
    atomic_store(&storm_left, most);
    atomic_store(&trace, 0xcbf29ce484222325u);
    atomic_store(&storm_pct, percent);
    atomic_store(&armed, 1);
}

/* False: there are too many already. */
EXPORT int
shim_order(int call, long nth, int err)
{
    int at = atomic_load(&n_orders);
    if (at == ORDERS)
        return 0;
    n_core = 0;
    dl_iterate_phdr(note_core, NULL);
    orders[at] = (order){(enum call)call, nth, err};
    atomic_store(&n_orders, at + 1);
    atomic_store(&armed, 1);
    return 1;
}

EXPORT unsigned long
shim_injected(int call, int fault)
{
    return atomic_load(&injected[call][fault]);
}

EXPORT unsigned long
shim_calls(int call)
{
    return atomic_load(&calls[call]);
}

EXPORT unsigned long long
shim_trace(void)
{
    return atomic_load(&trace);
}

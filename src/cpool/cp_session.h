/* What a command does to its session, told by its name. Layer 3.
 *
 * A connection may be shared between callers only if every command is answered
 * by exactly one reply and leaves no state behind that the next caller would
 * meet. These are the commands that break the rule.
 */
#ifndef CP_SESSION_H
#define CP_SESSION_H

#include <stddef.h>
#include <string.h>
#include <strings.h>

enum {
    CP_SESSION_MULTI = 1,   /* MULTI without EXEC or DISCARD */
    CP_SESSION_WATCH = 2,   /* WATCH without UNWATCH, EXEC or DISCARD */
    CP_SESSION_OPEN = 4,    /* replies can no longer be counted */
    CP_SESSION_STREAM = 16, /* SYNC, PSYNC: what follows is no RESP */
    CP_SESSION_LEAVING = 8, /* DISCARD or UNWATCH was sent; its reply tells */
};

static inline int
cp_session__is(const char *name, size_t len, const char *command)
{
    return strlen(command) == len && strncasecmp(name, command, len) == 0;
}

static inline int
cp_session__unaccountable(const char *name, size_t len, const char *second, size_t second_len)
{
    static const char *const commands[] = {
        "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE",
        "SUNSUBSCRIBE", "MONITOR", "RESET",
    };
    if (cp_session__is(name, len, "CLIENT"))
        return second != NULL && cp_session__is(second, second_len, "REPLY");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (cp_session__is(name, len, commands[i]))
            return 1;
    return 0;
}

/* The session flags after `name` was sent in a session with `flags`. */
static inline int
cp_session_after(int flags, const char *name, size_t len, const char *second,
                 size_t second_len)
{
    if (len < 4)
        return flags; /* GET, SET and their like */
    switch (name[0] | 0x20) {
    case 'e':
        /* EXEC without MULTI is an error that leaves the watches */
        if (cp_session__is(name, len, "EXEC") && (flags & CP_SESSION_MULTI))
            return flags & ~(CP_SESSION_MULTI | CP_SESSION_WATCH);
        return flags;
    case 'd':
        if (cp_session__is(name, len, "DISCARD") && (flags & CP_SESSION_MULTI))
            return (flags & ~(CP_SESSION_MULTI | CP_SESSION_WATCH)) | CP_SESSION_LEAVING;
        return flags;
    case 'w':
        return cp_session__is(name, len, "WATCH") ? flags | CP_SESSION_WATCH : flags;
    case 'u':
        if (cp_session__is(name, len, "UNWATCH")) {
            if ((flags & CP_SESSION_MULTI) || !(flags & CP_SESSION_WATCH))
                return flags;
            return (flags & ~CP_SESSION_WATCH) | CP_SESSION_LEAVING;
        }
        break;
    case 'm':
        if (cp_session__is(name, len, "MULTI"))
            return flags | CP_SESSION_MULTI;
        break;
    case 's': case 'p': case 'r': case 'c':
        break;
    default:
        return flags;
    }
    if (cp_session__is(name, len, "SYNC") || cp_session__is(name, len, "PSYNC"))
        return flags | CP_SESSION_OPEN | CP_SESSION_STREAM;
    if (cp_session__unaccountable(name, len, second, second_len))
        return flags | CP_SESSION_OPEN;
    return flags;
}

#endif

/* cp_session: which commands leave a session that the next caller would meet. */
#include <ctype.h>
#include <string.h>

#include "cp_session.h"
#include "cp_test.h"

static int
after(int flags, const char *name, const char *second)
{
    return cp_session_after(flags, name, strlen(name), second,
                            second == NULL ? 0 : strlen(second));
}

TEST(ordinary_commands_leave_nothing)
{
    static const char *const names[] = {
        "GET", "SET", "DEL", "PING", "HGETALL", "ZADD", "LPUSH", "MGET", "MSET", "EVAL", "EVALSHA", "DBSIZE", "DUMP",
        "SUNION", "SREM", "PUBLISH", "PUBSUB", "RPUSH", "RENAME", "RESTORE", "COMMAND",
        "CONFIG", "UNLINK", "WAIT", "MOVE", "MIGRATE", "EXISTS", "", "X", "SUBSCRIBED",
        "MONITORS", "MULT", "EXE", "WATC", "RESETX",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        CHECK_EQ(after(0, names[i], NULL), 0);
        CHECK_EQ(after(0, names[i], "REPLY"), 0);
    }
}

TEST(an_open_transaction_is_remembered_until_it_is_over)
{
    CHECK_EQ(after(0, "MULTI", NULL), CP_SESSION_MULTI);
    CHECK_EQ(after(CP_SESSION_MULTI, "GET", "a"), CP_SESSION_MULTI);
    CHECK_EQ(after(CP_SESSION_MULTI, "EXEC", NULL), 0);
    CHECK_EQ(after(CP_SESSION_MULTI, "DISCARD", NULL), CP_SESSION_LEAVING);
}

TEST(a_watch_is_remembered_until_it_is_over)
{
    CHECK_EQ(after(0, "WATCH", "a"), CP_SESSION_WATCH);
    CHECK_EQ(after(CP_SESSION_WATCH, "GET", "a"), CP_SESSION_WATCH);
    CHECK_EQ(after(CP_SESSION_WATCH, "UNWATCH", NULL), CP_SESSION_LEAVING);
    int both = after(CP_SESSION_WATCH, "MULTI", NULL);
    CHECK_EQ(both, CP_SESSION_WATCH | CP_SESSION_MULTI);
    CHECK_EQ(after(both, "EXEC", NULL), 0);
    CHECK_EQ(after(both, "DISCARD", NULL), CP_SESSION_LEAVING);
}

TEST(what_has_nothing_to_end_waits_for_no_reply)
{
    CHECK_EQ(after(0, "UNWATCH", NULL), 0);
    CHECK_EQ(after(0, "DISCARD", NULL), 0);
    CHECK_EQ(after(0, "EXEC", NULL), 0);
}

TEST(a_session_that_is_being_left_may_be_opened_again)
{
    CHECK_EQ(after(CP_SESSION_LEAVING, "GET", "a"), CP_SESSION_LEAVING);
    CHECK_EQ(after(CP_SESSION_LEAVING, "MULTI", NULL), CP_SESSION_LEAVING | CP_SESSION_MULTI);
    CHECK_EQ(after(CP_SESSION_LEAVING, "WATCH", "a"), CP_SESSION_LEAVING | CP_SESSION_WATCH);
    CHECK_EQ(after(CP_SESSION_LEAVING, "MONITOR", NULL), CP_SESSION_LEAVING | CP_SESSION_OPEN);
}

TEST(exec_without_multi_is_an_error_that_leaves_the_watches)
{
    CHECK_EQ(after(CP_SESSION_WATCH, "EXEC", NULL), CP_SESSION_WATCH);
    CHECK_EQ(after(CP_SESSION_WATCH, "DISCARD", NULL), CP_SESSION_WATCH);
}

TEST(unwatch_in_a_transaction_is_only_queued)
{
    int both = CP_SESSION_MULTI | CP_SESSION_WATCH;
    CHECK_EQ(after(both, "UNWATCH", NULL), both);
}

TEST(commands_with_any_number_of_replies_leave_it_open_for_good)
{
    static const char *const names[] = {
        "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE",
        "SUNSUBSCRIBE", "MONITOR", "RESET",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        CHECK_EQ(after(0, names[i], NULL), CP_SESSION_OPEN);
        CHECK_EQ(after(0, names[i], "channel"), CP_SESSION_OPEN);
    }
    CHECK_EQ(after(CP_SESSION_OPEN, "EXEC", NULL), CP_SESSION_OPEN);
    CHECK_EQ(after(CP_SESSION_OPEN, "UNWATCH", NULL), CP_SESSION_OPEN);
}

TEST(client_reply_leaves_it_open_and_other_clients_do_not)
{
    CHECK_EQ(after(0, "CLIENT", "REPLY"), CP_SESSION_OPEN);
    CHECK_EQ(after(0, "CLIENT", "ID"), 0);
    CHECK_EQ(after(0, "CLIENT", NULL), 0);
    CHECK_EQ(after(0, "CLIENT", ""), 0);
    CHECK_EQ(after(0, "CLIENT", "REPLYX"), 0);
}

TEST(the_case_of_letters_does_not_matter)
{
    CHECK_EQ(after(0, "multi", NULL), CP_SESSION_MULTI);
    CHECK_EQ(after(0, "Watch", "a"), CP_SESSION_WATCH);
    CHECK_EQ(after(CP_SESSION_MULTI, "exec", NULL), 0);
    CHECK_EQ(after(CP_SESSION_MULTI, "Discard", NULL), CP_SESSION_LEAVING);
    CHECK_EQ(after(CP_SESSION_WATCH, "unwatch", NULL), CP_SESSION_LEAVING);
    CHECK_EQ(after(0, "subscribe", "a"), CP_SESSION_OPEN);
    CHECK_EQ(after(0, "pSubscribe", "a"), CP_SESSION_OPEN);
    CHECK_EQ(after(0, "monitor", NULL), CP_SESSION_OPEN);
    CHECK_EQ(after(0, "reset", NULL), CP_SESSION_OPEN);
    CHECK_EQ(after(0, "client", "reply"), CP_SESSION_OPEN);
}

TEST(a_name_is_not_read_past_its_end)
{
    const char name[5] = {'W', 'A', 'T', 'C', 'H'}; /* no NUL behind it */
    CHECK_EQ(cp_session_after(0, name, sizeof name, NULL, 0), CP_SESSION_WATCH);
    const char second[5] = {'R', 'E', 'P', 'L', 'Y'};
    CHECK_EQ(cp_session_after(0, "CLIENT", 6, second, sizeof second), CP_SESSION_OPEN);
}
